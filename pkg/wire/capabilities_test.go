package wire_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// The names are the protocol, and the list documents all of them, by age.
func TestCapabilitiesAreDocumented(t *testing.T) {
	t.Parallel()
	var names []string
	last := ""
	for _, c := range wire.Capabilities {
		names = append(names, string(c.Capability))
		if _, err := time.Parse(time.DateOnly, c.Since); err != nil || c.Since < last {
			t.Errorf("%s: since %q: %v", c.Capability, c.Since, err)
		}
		last = c.Since
		if c.Means == "" || strings.HasSuffix(c.Means, ".") {
			t.Errorf("%s means %q", c.Capability, c.Means)
		}
	}
	if diff := cmp.Diff([]string{"score/PodmanV0", "score/FilesV0"}, names); diff != "" {
		t.Error(diff)
	}
	if got := wire.ParseCapabilities(names); len(got) != len(names) {
		t.Errorf("of %v only %v can be said", names, got)
	}
	if wire.CanRun("PodmanV0") != wire.CanPodmanV0 {
		t.Error("a score type has another capability")
	}
}

func TestParseCapabilities(t *testing.T) {
	t.Parallel()
	if got := wire.ParseCapabilities(nil); got != nil {
		t.Errorf("an agent that does not say: %v", got)
	}
	if got := wire.ParseCapabilities([]string{}); got == nil || len(got) > 0 {
		t.Errorf("an agent that can do nothing: %v", got)
	}
	hostile := []string{"", "x", "x/", "/x", "a/b/c", "a/b\n", "a/\x1b[2J", strings.Repeat("a", 17) + "/x", "a/" + strings.Repeat("x", 64), "score/PodmanV0 "}
	got := wire.ParseCapabilities(append(hostile, "score/B", "score/A", "score/B"))
	if diff := cmp.Diff([]wire.Capability{"score/A", "score/B"}, got); diff != "" {
		t.Error(diff)
	}
	var many []string
	for i := range 10 * wire.MaxCapabilities {
		many = append(many, fmt.Sprintf("score/T%d", i))
	}
	if n := len(wire.ParseCapabilities(many)); n != wire.MaxCapabilities {
		t.Errorf("%d capabilities of too many", n)
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ can, needed, want []wire.Capability }{
		"it has all":                      {[]wire.Capability{"score/A", "logs/v1"}, []wire.Capability{"score/A"}, nil},
		"it lacks one":                    {[]wire.Capability{"score/A"}, []wire.Capability{"logs/v1", "score/A"}, []wire.Capability{"logs/v1"}},
		"it can do nothing":               {[]wire.Capability{}, []wire.Capability{"score/A"}, []wire.Capability{"score/A"}},
		"it does not say, a score type":   {nil, []wire.Capability{"score/A"}, nil},
		"it does not say, something else": {nil, []wire.Capability{"score/A", "logs/v1"}, []wire.Capability{"logs/v1"}},
		"nothing is needed":               {nil, nil, nil},
	} {
		if got := wire.Missing(tc.can, tc.needed); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
