package probe

import (
	"errors"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// verdict is what the attempts of a probe amount to.
type verdict int

const (
	// undecided: there were not enough attempts in a row that say the same.
	undecided verdict = iota
	// passes, fails: there were.
	passes
	fails
	// unknown: the last attempt said nothing about the container.
	unknown
)

// tally counts the attempts of one probe.
type tally struct {
	probe *container.Probe
	// successes and failures are those in a row.
	successes, failures int
	// passed: it passed since it last failed.
	passed bool
}

// add counts an attempt. A verdict is repeated as often as it is confirmed, so that its
// reason is up to date; a failure only every so often, since reasons may vary each time.
func (t *tally) add(err error) verdict {
	switch {
	case errors.Is(err, ErrUnknown):
		return unknown
	case err == nil:
		t.successes, t.failures = t.successes+1, 0
		if t.passed || t.successes >= t.probe.Successes {
			t.passed = true
			return passes
		}
		return undecided
	}
	t.successes, t.failures = 0, t.failures+1
	if t.failures%max(t.probe.Failures, 1) != 0 {
		return undecided
	}
	t.passed = false
	return fails
}

// pause is the time until the next attempt.
func (t *tally) pause() time.Duration {
	if !t.passed && t.probe.Until > 0 {
		return t.probe.Until
	}
	return t.probe.Period
}
