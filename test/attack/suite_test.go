package attack_test

import (
	"slices"
	"testing"
	"time"
)

func TestAttacks(t *testing.T) {
	a := newArena(t)
	first := a.look(t, a.victims)
	a.run(t, slices.Concat(a.bucketAttacks()))
	time.Sleep(settling)
	a.unchanged(t, a.victims, first)
}

// settling is how long a change takes at most from a bucket to the API: what an
// attack did may show only after its own look.
const settling = 3 * time.Second
