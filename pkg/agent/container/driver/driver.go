package driver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/images"
	"fleet.nationtech.io/fleet/pkg/agent/container/interpret"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/container/probe"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Reasons of the condition PodmanReady, which is good when True.
const (
	// reasonPodmanAnswers: PodmanReady is True.
	reasonPodmanAnswers = "PodmanAnswers"
	// reasonPodmanUnavailable: PodmanReady is False; the agent keeps trying.
	reasonPodmanUnavailable = "PodmanUnavailable"
)

// Registry gives credentials of the fleet's image registry.
type Registry interface {
	Registry(ctx context.Context) (*wire.RegistryReply, error)
}

// Config is what a Driver is made of. To Wipe takes Runtime and Log only.
type Config struct {
	Runtime  container.Runtime
	Registry Registry
	// TrustRegistry makes the runtime trust the certificate of the fleet's image
	// registry of a name, HOST:PORT. Without it the runtime is left as it is.
	TrustRegistry func(registry string) error
	// Mirror fetches images for the runtime; nil for nobody.
	Mirror Mirror
	// Dialer connects to ports in containers, for probes.
	Dialer probe.Dialer
	// Storage repairs what the runtime keeps on the disk; nil for nobody.
	Storage Storage
	// Names tells about the runtime's server of names; nil for nobody.
	Names Names
	// Monitors ends what is left of starts; nil for nobody.
	Monitors Monitors
	// Listens says who listens on a port of the device, for people, or "" for nobody; nil for
	// one who cannot tell.
	Listens func(port uint16, udp bool) string
	// Binds says which directories containers may mount.
	Binds bind.Policy
	// Allow says what containers may have besides.
	Allow Allow
	// Space looks at the file system of images as the agent sees it; nil for nobody.
	Space func() (facts.FileSystem, error)
	// Prune says which images go; the zero one keeps all.
	Prune Prune
	// Images remembers which images the agent pulled; nil for nobody.
	Images runs.Keeper
	// Crashes keeps what is known of ends that nobody asked for; nil for nobody.
	Crashes *crashes.Store
	// Runs remembers the runs of containers over restarts of the agent; nil for nobody.
	Runs runs.Keeper
	// Jobs remembers the runs of services on a schedule; nil for nobody.
	Jobs runs.Keeper
	// Volumes remembers which volumes stand for others; nil for nobody.
	Volumes runs.Keeper
	// Uptime is a clock that nobody sets; nil for one that begins with the driver.
	Uptime func() runs.Moment
	// FollowEvery is the time between two looks at a registry for an image that moves; an
	// hour when it is zero.
	FollowEvery time.Duration
	Log         *slog.Logger
}

// Driver runs containers. Make it with New.
type Driver struct {
	runtime      container.Runtime
	registry     Registry
	trust        func(registry string) error
	mirror       Mirror // may be nil
	interpreters interpret.Registry
	ports        *ports
	mounts       *mounts
	runs         *runs.Ledger
	refusals     *refusals
	waits        *waits
	allow        Allow
	probes       *probe.Prober
	checks       *probe.Checks
	jobs         *jobs
	adoptions    *adoptions
	notes        *notes
	lookout      *lookout
	names        *names
	monitors     Monitors                           // nil for none
	listens      func(port uint16, udp bool) string // may be nil
	pruner       *pruner
	keeper       *keeper
	space        func() (facts.FileSystem, error)
	crashes      *crashes.Store // may be nil
	wanted       *wanted
	pulls        pulls
	moving       *moving
	followEvery  time.Duration
	log          *slog.Logger

	mu sync.Mutex // guards what follows
	// info and infoErr are what the runtime said of itself at the last look, version
	// is the last one that it said.
	info    container.Info
	infoErr error
	// infoAt is when the runtime said it.
	infoAt  time.Time
	version string
	// changed is called for what probes found out; nil before Run.
	changed func(wire.DeploymentRef)
}

var (
	_ workload.Claimant = (*Driver)(nil)
	_ workload.Runner   = (*Driver)(nil)
	_ workload.Keeper   = (*Driver)(nil)
)

// New returns a driver. It does nothing yet.
func New(cfg Config) *Driver {
	d := &Driver{
		runtime:      cfg.Runtime,
		registry:     cfg.Registry,
		trust:        cfg.TrustRegistry,
		mirror:       cfg.Mirror,
		interpreters: interpret.Default(),
		ports:        newPorts(),
		mounts:       newMounts(cfg.Binds),
		runs:         runs.New(cfg.Runs, cfg.Uptime, cfg.Log),
		refusals:     newRefusals(),
		adoptions:    newAdoptions(cfg.Volumes),
		waits:        newWaits(),
		allow:        cfg.Allow,
		lookout:      &lookout{Dialer: cfg.Dialer},
		names:        &names{Names: cfg.Names},
		monitors:     cfg.Monitors,
		listens:      cfg.Listens,
		space:        cfg.Space,
		crashes:      cfg.Crashes,
		keeper:       newKeeper(cfg.Storage),
		wanted:       newWanted(),
		moving:       newMoving(),
		followEvery:  cmp.Or(cfg.FollowEvery, followEvery),
		log:          cfg.Log,
	}
	if d.mirror != nil {
		d.mirror.Serve(d.wanted.images)
	}
	d.checks, d.notes = probe.NewChecks(d.lookout, cfg.Runtime), newNotes()
	d.probes = probe.New(d.checks, d.probed, cfg.Log)
	d.jobs = newJobs(cfg.Jobs, d.runs.Now, func(err error) { cfg.Log.Warn("what is known of jobs could not be saved", "error", err) })
	d.pruner = &pruner{rules: cfg.Prune, book: images.New(cfg.Images, d.runs.Now, cfg.Log)}
	return d
}

// About implements workload.Driver.
func (d *Driver) About() workload.About {
	return workload.About{
		Name:  "containers",
		Types: d.interpreters.Types(),
		Condition: workload.Condition{
			Type: wire.ConditionPodmanReady, Ready: reasonPodmanAnswers, Unavailable: reasonPodmanUnavailable,
		},
	}
}

// asked is what a score asks for.
type asked struct{ *plan.Workload }

// WithSecrets implements workload.Workload.
func (a asked) WithSecrets(c workload.Contents) (workload.Workload, error) {
	w, err := a.Workload.WithSecrets(c)
	if err != nil {
		return nil, err
	}
	return asked{w}, nil
}

// of returns what a workload of this driver is about, or nil.
func of(w workload.Workload) *plan.Workload {
	a, _ := w.(asked)
	return a.Workload
}

// Parse implements workload.Driver.
func (d *Driver) Parse(ref wire.DeploymentRef, scoreType string, data json.RawMessage) (workload.Workload, error) {
	w, err := d.interpreters[scoreType](ref, data)
	if err != nil {
		return nil, err
	}
	return asked{w}, nil
}

// Observe implements workload.Driver.
func (d *Driver) Observe(ctx context.Context, ref wire.DeploymentRef) (workload.Instance, error) {
	list, _, err := d.look(ctx, ref)
	if err != nil {
		return nil, err
	}
	d.runs.Save()
	d.mounts.seeOf(ref, list)
	return &instance{Driver: d, ref: ref, containers: list, prepared: map[string]string{}, replaced: map[string]bool{}}, nil
}

// look lists containers as runtime.List does, and when that began. It notes their runs,
// and how those ended that did since the look before.
func (d *Driver) look(ctx context.Context, ref wire.DeploymentRef) (list []container.Container, began runs.Look, err error) {
	began = d.runs.Begin()
	if list, err = d.runtime.List(ctx, ref); err != nil {
		return nil, began, err
	}
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	for _, end := range d.runs.See(began, list) {
		d.noteEnd(ctx, &list[end.Place], end)
	}
	return list, began, nil
}

// Ready implements workload.Driver.
func (d *Driver) Ready(ctx context.Context) (workload.Look, error) {
	info, err := d.recent(ctx)
	d.note(info, err)
	if err != nil {
		return workload.Look{}, d.because(err)
	}
	list, began, err := d.look(ctx, wire.DeploymentRef{})
	if err != nil {
		d.note(info, err) // it is not what it was
		return workload.Look{}, d.because(err)
	}
	d.runs.Keep(began, list)
	d.mounts.forbid(info.StoreRoot)
	d.mounts.see(list)
	d.wake()
	d.mendNames(ctx, list)
	look := workload.Look{Note: d.lacks(), Stores: []workload.Store{{Name: "the image store", Size: info.StoreSize, Used: info.StoreUsed}}}
	for _, c := range list {
		look.Deployments = append(look.Deployments, c.Ref)
	}
	slices.SortFunc(look.Deployments, wire.DeploymentRef.Compare)
	look.Deployments = slices.Compact(look.Deployments)
	return look, nil
}

func (d *Driver) note(info container.Info, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info, d.infoErr = info, err
	if err == nil {
		d.version = info.Version
		return
	}
	d.keeper.suspect()
}

// because adds to an error of the runtime what is known to be the reason.
func (d *Driver) because(err error) error {
	if damaged := d.keeper.lacks(); damaged != "" {
		return fmt.Errorf("%w: %s", err, damaged)
	}
	return err
}

// lacks says what cannot be done at present, or is damaged.
func (d *Driver) lacks() string {
	return strings.Join(slices.DeleteFunc([]string{d.keeper.lacks(), d.lookout.lacks(), d.names.lacks()}, func(s string) bool { return s == "" }), "; ")
}

// Info is what the runtime said of itself at the last look, or why it did not.
func (d *Driver) Info() (container.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.info, d.infoErr
}

// Version is that of the runtime, as far as it ever answered.
func (d *Driver) Version() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.version
}

// Watch implements workload.Driver.
func (d *Driver) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	return d.runtime.Watch(ctx, func() {
		d.mu.Lock()
		d.infoAt = time.Time{} // podman began anew, maybe with another configuration
		d.mu.Unlock()
		ready()
	}, changed)
}

// Grant implements workload.Claimant.
func (d *Driver) Grant(w workload.Workload) {
	d.ports.grant(of(w))
	d.wanted.note(of(w))
}

// Release implements workload.Claimant.
func (d *Driver) Release(ref wire.DeploymentRef) { d.ports.release(ref, false) }

// Forget implements workload.Claimant.
func (d *Driver) Forget(ref wire.DeploymentRef) {
	d.ports.release(ref, true)
	d.mounts.release(ref)
	d.refusals.forget(ref)
	d.waits.set(ref, nil)
	d.probes.Watch(ref, nil)
	d.wanted.forget(ref)
	d.moving.forget(ref)
	d.jobs.forget(ref)
	d.notes.forget(ref)
	if d.crashes != nil {
		d.crashes.Forget(ref)
	}
}

// Unblocked implements workload.Claimant.
func (d *Driver) Unblocked() []wire.DeploymentRef { return d.ports.freed() }
