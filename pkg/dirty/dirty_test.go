package dirty_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/dirty"
)

// The set follows a model: keys in the order of their first addition.
func TestSetFollowsItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		set, model := dirty.NewSet[int](), []int{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				keys := rapid.SliceOf(rapid.IntRange(0, 5)).Draw(t, "keys")
				var added []int
				for _, k := range keys {
					if !slices.Contains(model, k) {
						model, added = append(model, k), append(added, k)
					}
				}
				if diff := cmp.Diff(added, set.Add(keys...)); diff != "" {
					t.Fatalf("added (-want +got):\n%s", diff)
				}
			},
			"pop": func(t *rapid.T) {
				k, ok := set.Pop()
				if ok != (len(model) > 0) || ok && k != model[0] {
					t.Fatalf("popped %d, %t of %v", k, ok, model)
				}
				if ok {
					model = model[1:]
				}
			},
			"take": func(t *rapid.T) {
				if got := set.Take(); !slices.Equal(got, model) {
					t.Fatalf("took %v, want %v", got, model)
				}
				model = nil
			},
		})
	})
}

func TestWakeIsOneSignal(t *testing.T) {
	t.Parallel()
	set := dirty.NewSet[string]()
	woken := func() bool {
		select {
		case <-set.Wake():
			return true
		default:
			return false
		}
	}
	if set.Add(); woken() {
		t.Error("nothing was added")
	}
	set.Add("a")
	set.Add("a", "b")
	if !woken() || woken() {
		t.Error("two additions are one signal")
	}
	if set.Return("c"); woken() {
		t.Error("what is returned is no signal")
	}
	if set.Add("a"); !woken() {
		t.Error("what waits already is no signal: whoever works may have seen an older content")
	}
}
