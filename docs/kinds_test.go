package docs_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	types      = "../pkg/apis/fleet/v1alpha1/"
	conditions = types + "condition_types.go"
)

// kindPages are the pages that describe what a file of types defines.
var kindPages = map[string][]string{
	"deployment_types.go": {"deployment.md"},
	"device_types.go":     {"device.md"},
	"enrollment_types.go": {"enrollmenttoken.md", "enrollmentrequest.md"},
}

func TestKindsHaveTheirFieldsAndColumns(t *testing.T) {
	t.Parallel()
	for file, names := range kindPages {
		var pages strings.Builder
		for _, name := range names {
			pages.WriteString(read(t, filepath.Join("reference", name)))
		}
		fields := find(t, types+file, `json:"(\w+)[^"]*"`)
		columns := find(t, types+file, `printcolumn:name="([^"]+)"`)
		if len(fields) < 5 || len(columns) < 5 {
			t.Fatalf("%s has %d fields and %d columns: it changed its form", file, len(fields), len(columns))
		}
		for _, field := range fields {
			if !regexp.MustCompile("`([\\w.]+\\.)?"+field+"[.`]").MatchString(pages.String()) && !slices.Contains([]string{"metadata", "items", "spec", "status"}, field) {
				t.Errorf("%v lack field %s of %s", names, field, file)
			}
		}
		for _, column := range columns {
			if !strings.Contains(pages.String(), quoted(column)) {
				t.Errorf("%v lack column %s of %s", names, column, file)
			}
		}
	}
}

// constant is a condition type or a reason.
type constant struct {
	name, value, comment string
	kind                 string
	isType               bool
}

var (
	constBlock    = regexp.MustCompile(`(?m)^((?:// .*\n)+)const \(\n((?s:.*?))^\)`)
	constLine     = regexp.MustCompile(`((?:\t// .*\n)*)\t(\w+)\s+= "(\w+)"`)
	blockOfTypes  = regexp.MustCompile(`^// Condition types of an? (\w+)`)
	blockOfReason = regexp.MustCompile(`^// Reasons of (\w+) conditions`)
	polarity      = regexp.MustCompile(`is (good when (True|False)|a\s+problem\s+when True): `)
)

// constantsOf are the conditions of all kinds, as their file declares them.
func constantsOf(t *testing.T) []constant {
	t.Helper()
	var all []constant
	for _, block := range constBlock.FindAllStringSubmatch(read(t, conditions), -1) {
		ofTypes, ofReasons := blockOfTypes.FindStringSubmatch(block[1]), blockOfReason.FindStringSubmatch(block[1])
		if ofTypes == nil && ofReasons == nil {
			t.Fatalf("the comment of a block says neither Condition types of a KIND nor Reasons of KIND conditions:\n%s", block[1])
		}
		for _, m := range constLine.FindAllStringSubmatch(block[2], -1) {
			comment := strings.Join(strings.Fields(strings.ReplaceAll(m[1], "//", "")), " ")
			of := ofReasons
			if ofTypes != nil {
				of = ofTypes
			}
			all = append(all, constant{name: m[2], value: m[3], comment: comment, kind: of[1], isType: ofTypes != nil})
		}
	}
	if len(all) < 60 {
		t.Fatalf("%d constants found in %s: it changed its form", len(all), conditions)
	}
	return all
}

// A constant is named after its value, so that one who reads a status finds it.
func TestConditionsAreNamedAfterTheirValues(t *testing.T) {
	t.Parallel()
	for _, c := range constantsOf(t) {
		prefix := "Reason"
		if c.isType {
			prefix = strings.TrimPrefix(c.kind, "Enrollment")
		}
		if c.name != prefix+c.value {
			t.Errorf("%s is %q", c.name, c.value)
		}
	}
}

func TestConditionsAreOnTheirPages(t *testing.T) {
	t.Parallel()
	for _, c := range constantsOf(t) {
		page := strings.ToLower(c.kind) + ".md"
		text := read(t, filepath.Join("reference", page))
		switch {
		case c.comment == "":
			t.Errorf("%s has no comment", c.name)
		case c.isType && !polarity.MatchString(c.comment):
			t.Errorf("%s does not say whether True is good: its comment is %q", c.name, c.comment)
		case c.isType && !strings.Contains(text, "| "+c.value+" |") && !strings.Contains(text, "| Approved, "+c.value+" |"):
			t.Errorf("%s lacks condition %s", page, c.value)
		case !c.isType && !strings.Contains(text, quoted(c.value)):
			t.Errorf("%s lacks reason %s", page, c.value)
		}
	}
}

// What the sources say beside that file, since they may not import it: the agent
// and the device API.
func TestConditionsAreDeclaredInOnePlace(t *testing.T) {
	t.Parallel()
	var declared []string
	for _, c := range constantsOf(t) {
		declared = append(declared, c.value)
	}
	found := 0
	for _, source := range []struct{ glob, pattern string }{
		{"../pkg/wire/payloads.go", `(?m)^\tCondition[A-Z]\w+ = "(\w+)"`},
		{"../pkg/agent/*.go", `reason\w+\s+= "(\w+)"`},
		{"../pkg/agent/*/*.go", `reason\w+\s+= "(\w+)"`},
		{"../pkg/agent/*/driver/*.go", `reason\w+\s+= "(\w+)"`},
		{"../pkg/roster/*.go", `Suspicion = "(\w+)"`},
		{"../pkg/controllers/*/*.go", `Reason = "(\w+)"`},
		{"../pkg/ops/*.go", `Reason: "(\w+)"`},
	} {
		values := find(t, source.glob, source.pattern)
		found += len(values)
		for _, value := range values {
			if !slices.Contains(declared, value) {
				t.Errorf("%s is a condition or a reason in %s, and not declared in %s", value, source.glob, conditions)
			}
		}
	}
	if found < 30 {
		t.Errorf("%d conditions and reasons found beside %s: the sources changed their form", found, conditions)
	}
}

// kubectl explain shows the comments.
func TestCommentsAreComplete(t *testing.T) {
	t.Parallel()
	for file := range kindPages {
		source := read(t, types+file)
		comments := commentsBefore(source, `Conditions []metav1.Condition`)
		for _, c := range constantsOf(t) {
			if c.isType && strings.Contains(source, "type "+c.kind+" struct") && !strings.Contains(comments, c.value) {
				t.Errorf("the comment of conditions in %s does not name %s", file, c.value)
			}
		}
	}
	data := commentsBefore(read(t, types+"deployment_types.go"), `Data runtime.RawExtension`)
	for _, field := range find(t, "../pkg/score/podman_v0.go", `json:"(\w+)`) {
		if !regexp.MustCompile(`\b` + field + `\b`).MatchString(data) {
			t.Errorf("the comment of score.data does not name %s: it is %q", field, data)
		}
	}
}

// commentsBefore joins the comments above each line with a declaration.
func commentsBefore(source, declaration string) string {
	var b strings.Builder
	for _, m := range regexp.MustCompile(`((?:\t// .*\n)+)\t`+regexp.QuoteMeta(declaration)).FindAllStringSubmatch(source, -1) {
		b.WriteString(m[1])
	}
	return b.String()
}

// Each field of a score has a row on its page, or is named in one.
func TestFieldsOfScoresHaveARow(t *testing.T) {
	t.Parallel()
	page := read(t, "reference/podman-v0.md") + read(t, "reference/files-v0.md")
	fields := find(t, "../pkg/score/*.go", `json:"(\w+)[^"]*"`)
	if len(fields) < 40 {
		t.Fatalf("%d fields found: package score changed its form", len(fields))
	}
	for _, field := range fields {
		if !regexp.MustCompile("[`.{ \\[]" + field + "[`:,}\\]]").MatchString(page) {
			t.Errorf("neither podman-v0.md nor files-v0.md has %s", field)
		}
	}
}

// Every event is on the page of its kind.
func TestEventsAreOnTheirPages(t *testing.T) {
	t.Parallel()
	pages := read(t, "reference/device.md") + read(t, "reference/deployment.md") + read(t, "reference/enrollmentrequest.md")
	var reasons []string
	for _, pattern := range []string{
		`(?:normal|warning)\("(\w+)"`, `reasonConnected, \w+ = "(\w+)"`, `reasonDisconnected = "\w+", "(\w+)"`,
		`metav1\.Condition\w+, "(\w+)"`, `metav1\.Condition\w+, "\w+", "(\w+)"`,
	} {
		found := find(t, "../pkg/controllers/events/*.go", pattern)
		if len(found) == 0 {
			t.Errorf("no event matches %s: package events changed its form", pattern)
		}
		reasons = append(reasons, found...)
	}
	if len(reasons) < 20 {
		t.Errorf("%d events found: package events changed its form", len(reasons))
	}
	for _, reason := range reasons {
		if !strings.Contains(pages, quoted(reason)) {
			t.Errorf("event %s is on no page", reason)
		}
	}
}
