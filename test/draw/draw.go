// Package draw chooses what happens next in a random story.
package draw

import "math/rand/v2"

// Step is something that may happen.
type Step struct {
	Name string
	Do   func()

	weight int
}

// May is a step with its share of all that may happen.
func May(name string, weight int, do func()) Step { return Step{name, do, weight} }

// One chooses a step at random, by their shares.
func One(random *rand.Rand, steps ...Step) Step {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	n := random.IntN(total)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			return s
		}
	}
	panic("no step has a share")
}
