package revisions

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	one, two, three := revision{"web-1", "one", 1, ""}, revision{"web-2", "two", 2, "second"}, revision{"web-3", "three", 3, "third"}
	for _, tt := range []struct {
		name        string
		known       []revision
		hash, cause string
		limit       int
		held        map[string]bool
		want        change
	}{
		{"the first", nil, "one", "", 10, nil, change{number: 1}},
		{"a new one", []revision{two, one}, "three", "", 10, nil, change{number: 3}},
		{"nothing new", []revision{one, two}, "two", "second", 10, nil, change{present: &two}},
		{"another cause", []revision{one, two}, "two", "tests", 10, nil, change{present: &two, describe: true}},
		{"one that is back", []revision{one, two, three}, "one", "undo", 10, nil, change{number: 4, present: &one}},
		{"one too many", []revision{one, two, three}, "three", "third", 1, nil, change{present: &three, obsolete: []string{"web-1"}}},
		{"all too many", []revision{one, two}, "three", "", 0, nil, change{number: 3, obsolete: []string{"web-2", "web-1"}}},
		{"a device has it", []revision{one, two}, "three", "", 0, map[string]bool{"one": true}, change{number: 3, obsolete: []string{"web-2"}}},
		{"the present one is never too many", []revision{one, two, three}, "one", "", 1, nil, change{number: 4, present: &one, obsolete: []string{"web-2"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := plan(tt.known, tt.hash, tt.cause, tt.limit, func() map[string]bool { return tt.held })
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(change{}, revision{})); diff != "" {
				t.Errorf("change (-want +got):\n%s", diff)
			}
		})
	}
}

// What devices have costs a look at each of them.
func TestNobodyIsAskedWhileThereAreFew(t *testing.T) {
	t.Parallel()
	plan([]revision{{"web-1", "one", 1, ""}}, "two", "", 1, func() map[string]bool { t.Error("devices are looked at"); return nil })
}
