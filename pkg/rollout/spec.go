package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/assignment"
)

// Amount is a number of devices, or a share of some devices in percent. The zero Amount is no
// device.
type Amount struct {
	N       int
	Percent bool
}

// up is the amount of n devices, rounded up.
func (a Amount) up(n int) int {
	if a.Percent {
		return (n*a.N + 99) / 100
	}
	return a.N
}

// down is the amount of n devices, rounded down.
func (a Amount) down(n int) int {
	if a.Percent {
		return n * a.N / 100
	}
	return a.N
}

// Action says what follows when too many devices fail.
type Action string

// Values of Action.
const (
	// Pause: no further device is changed until enough of those that failed are well.
	Pause Action = "Pause"
	// Rollback: every device goes back to the last revision that was rolled out.
	Rollback Action = "Rollback"
	// Continue: failures stop nothing but by the budget, in which they keep their places.
	Continue Action = "Continue"
)

// Removal says how the Deployment leaves devices that it no longer belongs on.
type Removal string

// Values of Removal.
const (
	RemoveImmediately  Removal = "Immediate"
	RemoveWithinBudget Removal = "Budgeted"
)

// MaxBatches is how many batches a Spec has at most.
const MaxBatches = 50

// Spec is what a Deployment says of a rollout in batches. It is never changed.
type Spec struct {
	// Batches are in order. Whatever none of them takes forms one more, the last.
	Batches []Batch
	// MaxUnavailable is the budget: how many devices may be out at a time, of all devices
	// of the Deployment, rounded down, and at least one.
	MaxUnavailable Amount
	// GroupBy are the keys of labels. Of devices with the same values of all of them one
	// is out at a time. A device that lacks one of the labels is in no group.
	GroupBy []string
	// MinReady is how long a device must be connected and ready to have succeeded.
	MinReady time.Duration
	// Deadline is how long a device may take from when it is given a revision.
	Deadline  time.Duration
	OnFailure Action
	// FailureThreshold is how many devices may fail, of those that were given the
	// revision, rounded down; nil: what the batches tolerate.
	FailureThreshold *Amount
	// Paused: nothing is decided and nobody is given anything.
	Paused bool
	// ApprovedBatch is the number, from 1, of the last batch that was approved.
	ApprovedBatch int
	// Windows are when devices may be changed; at any time when there is none.
	Windows []Window
	Removal Removal
	// MaxRemoval is off how many of its devices the Deployment may be taken without an
	// approval; nil: all.
	MaxRemoval *Amount
	// ApprovedRemoval is off how many devices it may be taken beyond that.
	ApprovedRemoval int
}

// Batch is a number of devices that is changed, and judged, before those that follow.
type Batch struct {
	Selector assignment.Selector
	// Limit is how many devices it takes, of all devices of the Deployment, rounded up;
	// nil: all that it selects.
	Limit *Amount
	// Tolerance is how many of the devices that it reached may fail, in percent.
	Tolerance int
	// Approval: the next batch waits until this one is approved.
	Approval bool
	// Pause is how long the next batch waits after this one is done.
	Pause time.Duration
}

// Window is a span of time that comes again and again.
type Window struct {
	// Cron says when it opens, as a score.Schedule does, and TimeZone by which clock.
	Cron, TimeZone string
	// OfDevice: by the clock of each device. TimeZone is for devices without one.
	OfDevice bool
	Duration time.Duration
}

// Default is what holds for a rollout in batches that says nothing else.
func Default() Spec {
	return Spec{
		MaxUnavailable: Amount{10, true}, MinReady: 10 * time.Second, Deadline: 10 * time.Minute,
		OnFailure: Pause, Removal: RemoveImmediately,
	}
}

// batches are those of the spec and the last one.
func (s *Spec) batches() []Batch { return append(slices.Clone(s.Batches), Batch{}) }

// key changes with who belongs to which batch. It is written down, so that it must not change with
// the version of the program.
func (s *Spec) key() string {
	h := sha256.New()
	for _, b := range s.Batches {
		fmt.Fprintln(h, "batch", b.Selector.Nothing)
		if b.Limit != nil {
			fmt.Fprintln(h, "limit", b.Limit.N, b.Limit.Percent)
		}
		for _, r := range b.Selector.Requirements {
			fmt.Fprintf(h, "label %q %d %q\n", r.Key, r.Operator, r.Values)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// budget is how many of n devices may be out at a time.
func (s *Spec) budget(n int) int { return max(1, s.MaxUnavailable.down(n)) }
