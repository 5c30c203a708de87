// Package docs_test keeps the documentation honest: what the sources define
// must be in the reference, and links must lead somewhere. It imports nothing
// of the project, whose two sides no package may bring together.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// quoted is how the reference writes what stands in the sources.
func quoted(name string) string { return "`" + name + "`" }

func TestReferenceIsComplete(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		sources string // glob, from this directory
		pattern string // its first group is the name
		form    func(name string) string
		doc     string
	}{
		"flags":              {"../cmd/*/*.go", `\b\w+\.\w*Var\w*\(&[^,]+, "([a-z-]+)"`, func(n string) string { return "`--" + n + "`" }, "commands.md"},
		"flags of operators": {"../pkg/ops/commands/*.go", `\b\w+\.\w*Var\w*\(&[^,]+, "([a-z-]+)"`, func(n string) string { return "`--" + n + "`" }, "commands.md"},
		"flags of plugin":    {"../pkg/plugin/run.go", `\b\w+\.\w*Var\w*\(&[^,]+, "([a-z-]+)"`, func(n string) string { return "`--" + n + "`" }, "kubectl-fleet.md"},
		"keys of the server": {"../cmd/fleet-server/config.go", `yaml:"(\w+)"`, quoted, "commands.md"},
		"keys of the agent":  {"../pkg/agent/config/config.go", `yaml:"(\w+)"`, func(n string) string { return n }, "commands.md"},
		"variables, server":  {"../cmd/fleet-server/config.go", `env:"(\w+)"`, quoted, "commands.md"},
		"variables, agent":   {"../pkg/agent/config/config.go", `env:"(\w+)"`, quoted, "commands.md"},
		"flags of settings":  {"../cmd/fleet-server/config.go", `flag:"([a-z-]+)"`, func(n string) string { return "`--" + n + "`" }, "commands.md"},
		"fields of PodmanV0": {"../pkg/score/podman_v0.go", `json:"(\w+)`, func(n string) string { return n + "`" }, "podman-v0.md"},
		"checks of doctor":   {"../pkg/agent/doctor/*.go", `Check: "([a-z-]*[a-z])"`, quoted, "commands.md"},
		"metrics":            {"../pkg/*/*.go", `Name\W+"(fleet_\w+)"`, quoted, "ports-files-metrics.md"},
		"metrics of parts":   {"../pkg/*/*/*.go", `Name\W+"(fleet_\w+)"`, quoted, "ports-files-metrics.md"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc := read(t, filepath.Join("reference", tt.doc))
			names := find(t, tt.sources, tt.pattern)
			if len(names) == 0 {
				t.Fatalf("nothing in %s matches %s: the sources changed their form", tt.sources, tt.pattern)
			}
			for _, n := range names {
				if !strings.Contains(doc, tt.form(n)) {
					t.Errorf("%s lacks %s", tt.doc, tt.form(n))
				}
			}
		})
	}
}

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`)
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(read(t, target)), m[2]) {
				t.Errorf("%s: %s has no heading #%s", page, target, m[2])
			}
		}
	}
}

func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// anchors are what forges make of headings.
func anchors(page string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		kept := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(kept, " ", "-"))
	}
	return all
}

func find(t *testing.T, glob, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(glob)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, f), -1) {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The threat model names the tests that show it. They have to be there.
func TestNamedTestsExist(t *testing.T) {
	t.Parallel()
	model, err := os.ReadFile("security.md")
	if err != nil {
		t.Fatal(err)
	}
	defined := map[string]bool{}
	definition := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir("..", func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range definition.FindAllStringSubmatch(string(source), -1) {
			defined[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(model), -1)
	if len(named) == 0 {
		t.Fatal("the threat model names no test")
	}
	for _, m := range named {
		if !defined[m[1]] {
			t.Errorf("security.md names %s, which is no test", m[1])
		}
	}
}
