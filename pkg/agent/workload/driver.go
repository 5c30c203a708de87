package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrUnavailable: a driver cannot do anything at present. It is a condition of
// the device and no failure of a Deployment. Drivers wrap it.
var ErrUnavailable = errors.New("unavailable")

// ErrNotAllowed is in the chain of errors about what the configuration of the device does not
// let a workload have, whatever its namespace allows. They name the field.
var ErrNotAllowed = errors.New("not allowed on this device")

// NotAllowed puts ErrNotAllowed into the chain of an error, whose text stays as it is.
func NotAllowed(err error) error { return notAllowed{err} }

type notAllowed struct{ error }

// Is implements what errors.Is looks for.
func (notAllowed) Is(target error) bool { return target == ErrNotAllowed }

// Unwrap implements what errors.Is looks for.
func (n notAllowed) Unwrap() error { return n.error }

// Driver runs workloads of one kind. Its methods may be called concurrently, but
// those about one Deployment by one caller at a time. All that reach for what
// runs the workloads may return ErrUnavailable.
//
// What a driver must know after a restart it reads from the device: the agent's
// own state may be lost, and an agent that is replaced touches nothing that runs.
type Driver interface {
	// About describes the driver. It is always the same.
	About() About
	// Parse says what the data of a score of one of its types asks for. It looks at
	// nothing but its arguments. Errors are shown to the operator.
	Parse(ref wire.DeploymentRef, scoreType string, data json.RawMessage) (Workload, error)
	// Observe looks at what there is of a Deployment on the device.
	Observe(ctx context.Context, ref wire.DeploymentRef) (Instance, error)
	// Ready reports whether the driver can work, and what it sees on the device.
	Ready(ctx context.Context) (Look, error)
	// Watch calls changed for each Deployment to which something happened on the
	// device, until ctx ends or that cannot be seen any more, and returns why. It
	// calls ready once changes will be seen. changed does not block.
	Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error
	// Wipe removes everything that the driver ever made, data included. It may be
	// cut off anywhere and called again.
	Wipe(ctx context.Context) error
}

// About is what is always true of a driver.
type About struct {
	// Name is for logs.
	Name string
	// Types are the types of score that the driver takes. No other driver of an
	// agent takes one of them.
	Types []string
	// Condition is the condition of the Device that says whether the driver can
	// work, and its reasons. Its type is one of wire.DeviceConditions, or empty for a
	// driver that can always work.
	Condition Condition
}

// Condition names a condition and its reasons.
type Condition struct {
	Type string
	// Ready is the reason when it is True, Unavailable when it is False.
	Ready, Unavailable string
}

// Look is what a driver sees when it looks at everything.
type Look struct {
	// Deployments are those of which there is something on the device.
	Deployments []wire.DeploymentRef
	// Stores are the file systems that workloads fill.
	Stores []Store
	// Note says, in one line, what the driver cannot do at present although it works;
	// empty for nothing.
	Note string
}

// Store is a file system.
type Store struct {
	// Name follows "the file system of".
	Name string
	// Size and Used are in bytes; Size is zero when the driver cannot tell.
	Size, Used uint64
}

// Workload is what a score asks for, in terms of its driver. It is never changed.
type Workload interface {
	// Secrets are the names of the Secrets that it needs, in order, and the
	// wire.ConfigMapNames of ConfigMaps.
	Secrets() []string
	// WithSecrets returns the workload with the content of these. It fails for a key that
	// is not there.
	WithSecrets(c Contents) (Workload, error)
}

// Instance is what there was of a Deployment on the device when it was observed.
// Workloads that it is given come from the same driver.
type Instance interface {
	// Exists reports whether there is anything that runs or could run.
	Exists() bool
	// Forbidden lists the steps that remove what the rules of the device forbid,
	// whoever made it, and why the first of it has to go.
	Forbidden() (steps []Step, reason error)
	// Plan lists the steps to a workload that has its Secrets: none when it is there
	// already. Data is kept. renewed says that this workload was not applied whole
	// before, so that an earlier one may have left things that it does not use. It
	// does nothing that others could see, but may reserve what others want, see
	// Claimant. Errors are shown to the operator.
	Plan(ctx context.Context, w Workload, renewed bool) (Plan, error)
	// Remove lists the steps after which nothing of the Deployment is left, but its
	// data where retention says so.
	Remove(ctx context.Context, retention wire.VolumeRetention) ([]Step, error)
	// Halt stops what runs, and keeps it on the device. A Plan starts it again.
	Halt(ctx context.Context) error
	// Restart lists the steps that end what there is of some services, as it is asked to
	// end, and begin it anew. That somebody asked for it counts as no failure. without
	// are the services of which there is nothing that could be restarted.
	Restart(services []string) (steps []Step, without []string)
	// State judges what there is by what there should be. w is nil when that is not
	// known.
	State(w Workload, now time.Time) State
}

// Reviver is an Instance that can start at once what ran and does not.
type Reviver interface {
	Instance
	// Revive lists the steps, of kind Restart and in any order, that start what there is of
	// a workload, which has its Secrets and may be an earlier one than is planned: what ran,
	// ended and is to run, as after a power cut, and was not replaced. They fetch and remove
	// nothing. One that fails is tried again by a Plan.
	Revive(w Workload) []Step
}

// Plan is what has to be done.
type Plan struct {
	// Steps are taken in this order, those of kind Fetch first.
	Steps []Step
	// Again is when there may be more to do although nothing happened; zero is never.
	Again time.Time
}

// Step is one thing to do.
type Step struct {
	Kind Kind
	// Name says what is done, in a form such as "pulling image X".
	Name string
	// Within bounds how long it may take; zero for the agent's own bound. It is for a
	// Change alone.
	Within time.Duration
	// Do does it. What is done already is no error.
	Do func(ctx context.Context) error
	// Progress says how far a Fetch is, at any time while Do runs; nil for a driver that
	// cannot tell.
	Progress func() Progress
}

// Progress is how far a Fetch is.
type Progress struct {
	// What is being done and for whom, in a form such as "pulling web".
	What string
	// Brought is how many bytes came, of Total; Total is zero while that is not known.
	Brought, Total int64
}

// String says it for people.
func (p Progress) String() string {
	if p.Total <= 0 {
		return p.What
	}
	const mb = 1e6
	return fmt.Sprintf("%s: %.0f of %.0f MB", p.What, float64(p.Brought)/mb, float64(p.Total)/mb)
}

// Kind says how the agent treats a Step.
type Kind int

// Kinds of Step.
const (
	// Change changes what there is. It takes two minutes at most, or Within. A few of
	// them proceed at a time on a device.
	Change Kind = iota
	// Fetch brings something to the device and disturbs nothing. It may take an hour,
	// holds up no other Deployment, and ends as soon as a newer manifest comes.
	Fetch
	// Restart sets going what is as it should be, or finishes what an earlier plan began,
	// and needs no other step: it is taken although one before it failed. Otherwise it is
	// as Change.
	Restart
)

// State is what a driver makes of an Instance.
type State struct {
	// Phase is wire.PhasePending, wire.PhaseRunning or wire.PhaseFailed.
	Phase wire.Phase
	// Error is why Phase is wire.PhaseFailed.
	Error string
	// Note says, in one line, what is wrong although the workload runs; empty for nothing.
	Note string
	// Parts are what the workload consists of, ordered by service. There may be none.
	Parts []wire.ContainerState
	// LastEvent is when something last happened, by times that do not depend on when
	// it was looked at; zero when there are none.
	LastEvent time.Time
	// Again is when the state will read differently although nothing happened; zero
	// is never.
	Again time.Time
}

// Runner is a Driver that works by itself, beside what it is asked to do.
type Runner interface {
	Driver
	// Run works until ctx ends. It calls changed, which does not block, for each
	// Deployment about which it found something out.
	Run(ctx context.Context, changed func(wire.DeploymentRef))
}

// Keeper is a Driver whose workloads need something on the device to start, such as images,
// which it fetches and can remove again.
type Keeper interface {
	Driver
	// Needs names what a workload needs, in terms of the driver. It looks at nothing but
	// its argument.
	Needs(w Workload) []string
	// Missing says which needs are not on the device, in words for people and in order.
	Missing(ctx context.Context, needs []string) ([]string, error)
	// Collect removes what the driver fetched and is none of the needs, when its own rules
	// say so. needs has everything that the agent may want to run without the server.
	Collect(ctx context.Context, needs []string) error
}

// Claimant is a Driver whose workloads compete with each other for something on
// the device, such as a port.
type Claimant interface {
	Driver
	// Grant gives a workload what it had: an earlier run of the agent applied it.
	Grant(w Workload)
	// Release takes back what the last Plan of a Deployment reserved, because not all
	// of its steps were taken.
	Release(ref wire.DeploymentRef)
	// Forget takes back everything: the Deployment is gone from the device.
	Forget(ref wire.DeploymentRef)
	// Unblocked lists the Deployments whose last Plan failed for what others had, and
	// that could have it now.
	Unblocked() []wire.DeploymentRef
}
