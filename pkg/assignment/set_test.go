package assignment_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/assignment"
)

// checkSet compares a set with the one of the standard library.
func checkSet(t testing.TB, s *assignment.Set, want map[uint32]bool) {
	t.Helper()
	members := slices.Sorted(maps.Keys(want))
	if diff := cmp.Diff(members, append([]uint32(nil), s.Members()...)); diff != "" {
		t.Fatalf("members (-want +got):\n%s", diff)
	}
	if s.Len() != len(want) {
		t.Fatalf("%d members, want %d", s.Len(), len(want))
	}
}

func TestSetIsASet(t *testing.T) {
	t.Parallel()
	// Numbers on both sides of the boundary between two blocks.
	numbers := rapid.Uint32Range(1<<16-3, 1<<16+3)
	rapid.Check(t, func(rt *rapid.T) {
		s, want := assignment.Set{}, map[uint32]bool{}
		rt.Repeat(map[string]func(*rapid.T){
			"add":    func(t *rapid.T) { n := numbers.Draw(t, "n"); s.Add(n); want[n] = true },
			"remove": func(t *rapid.T) { n := numbers.Draw(t, "n"); s.Remove(n); delete(want, n) },
			"": func(rt *rapid.T) {
				if n := numbers.Draw(rt, "n"); s.Has(n) != want[n] {
					rt.Fatalf("has %d: %v", n, s.Has(n))
				}
				checkSet(t, &s, want)
			},
		})
	})
}

// A block becomes bits when it is full and a list again when it is nearly empty.
func TestSetGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	s, want := assignment.Set{}, map[uint32]bool{}
	const step, most = 13, 3 << 16 // 5041 members in a block
	for n := uint32(0); n < most; n += step {
		s.Add(n)
		want[n] = true
	}
	checkSet(t, &s, want)
	for n := uint32(0); n < most; n += step {
		if n%(7*step) != 0 {
			s.Remove(n)
			delete(want, n)
		}
		if s.Has(n) != want[n] || s.Has(n+1) {
			t.Fatalf("has %d: %v, and the next: %v", n, s.Has(n), s.Has(n+1))
		}
	}
	checkSet(t, &s, want)
	for n := range want {
		s.Remove(n)
	}
	checkSet(t, &s, nil)
}

// A block is what takes less memory, and is not converted to and fro at the limit.
func TestBlocksAreWhatIsSmaller(t *testing.T) {
	t.Parallel()
	s := assignment.Set{}
	bitmaps := func(members, want int) {
		t.Helper()
		if s.Len() != members || s.Bitmaps() != want {
			t.Fatalf("%d members, %d bitmaps, want %d, %d", s.Len(), s.Bitmaps(), members, want)
		}
	}
	const limit = 1 << 16 / 16 // two bytes a member are as much as a bit for each number
	for n := range uint32(limit) {
		s.Add(n)
	}
	bitmaps(limit, 0)
	s.Add(limit)
	bitmaps(limit+1, 1)
	for n := uint32(limit); n >= limit/2; n-- {
		s.Remove(n)
	}
	bitmaps(limit/2, 1)
	s.Remove(0)
	bitmaps(limit/2-1, 0)
}
