package settings_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/settings"
)

func TestEditKeepsEverythingElse(t *testing.T) {
	t.Parallel()
	name := settings.Change{Key: "name", Values: []string{"b"}}
	ports := settings.Change{Key: "ports", Values: []string{"1", "x: y"}, List: true}
	inline := settings.Change{Key: "ports", Values: []string{"1", "2"}, List: true, Inline: true}
	level := settings.Change{Key: "log.level", Values: []string{"debug"}}
	standard := settings.Change{Key: "log.level", Values: []string{"info"}, Default: true}
	tests := map[string]struct {
		content string
		changes []settings.Change
		want    string
		made    []settings.Change
	}{
		"nothing there":  {"", []settings.Change{name, ports, level}, "name: b\nports:\n  - \"1\"\n  - 'x: y'\nlog:\n  level: debug\n", []settings.Change{name, ports, level}},
		"comments":       {"# ours\nname: a # the old\nother: {c: d}\n# end\n", []settings.Change{name}, "# ours\nname: b # the old\nother: {c: d}\n# end\n", []settings.Change{name}},
		"only comments":  {"# ours\n", []settings.Change{name}, "# ours\nname: b\n", []settings.Change{name}},
		"half a comment": {"# ours", []settings.Change{name}, "# ours\nname: b\n", []settings.Change{name}},
		"as it is":       {"name: \"b\" # quoted\nports: [1, 2]\n", []settings.Change{name, inline}, "name: \"b\" # quoted\nports: [1, 2]\n", nil},
		"shorter":        {"ports: [1, 2, 3]\n", []settings.Change{inline}, "ports: [\"1\", \"2\"]\n", []settings.Change{inline}},
		"a default":      {"log: {level: warn}\n", []settings.Change{standard}, "log: {level: warn}\n", nil},
		"no default":     {"log:\n", []settings.Change{standard}, "log:\n  level: info\n", []settings.Change{standard}},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			got, made, err := settings.Edit([]byte(tt.content), tt.changes...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.made, made); diff != "" {
				t.Error(diff)
			}
			again, made, err := settings.Edit(got, tt.changes...)
			if err != nil || len(made) > 0 || string(again) != string(got) {
				t.Errorf("a second time it becomes %q by %v: %v", again, made, err)
			}
		})
	}
	for _, content := range []string{"- a\n", "a", "a: ["} {
		if got, _, err := settings.Edit([]byte(content), name); err == nil {
			t.Errorf("%q becomes %q", content, got)
		}
	}
}
