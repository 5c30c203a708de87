package agent

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/heartbeat"
	"fleet.nationtech.io/fleet/pkg/agent/queue"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Link is the connection to the server; package link implements it. Requests
// return a *wire.Refusal when the server refuses, and other errors when it
// cannot be reached.
type Link interface {
	Snapshot(ctx context.Context, req wire.SnapshotRequest) (*wire.SnapshotReply, error)
	Body(ctx context.Context, hash string, size int) ([]byte, error)
	Secret(ctx context.Context, ref wire.DeploymentRef, name string) (content map[string][]byte, digest string, err error)
	Registry(ctx context.Context) (*wire.RegistryReply, error)
	SendInfo(ctx context.Context, payload []byte) error
	SendState(ctx context.Context, payload []byte) error
	Heartbeat(h wire.Heartbeat) error
	Connected() <-chan struct{}
	Nudges() <-chan struct{}
	Revocations() <-chan wire.Revocation
	// Rarely makes the link ask rarely for a connection, for a device that was
	// revoked.
	Rarely()
	Reconnect() error
	Session() string
	Server() (url string, err error)
	SetServers(servers []string) error
}

// Credentials look after the certificate that the Link shows; package credential
// implements it.
type Credentials interface {
	// Run works until ctx ends and calls revoked when the server says that the
	// device was revoked.
	Run(ctx context.Context, l credential.Link, revoked func(wire.Revocation))
	Status() credential.Status
}

// Config is what an agent is made of. All fields are mandatory unless said
// otherwise.
type Config struct {
	Device string
	// Enrollment is that of the identity, see store.Identity.
	Enrollment string
	// HardwareID is that of package facts, or empty when the machine does not tell.
	HardwareID string
	// Version of the agent.
	Version string
	// Servers are the NATS URLs of the configuration.
	Servers []string
	// Labels are asked for; may be empty.
	Labels      map[string]string
	Link        Link
	Credentials Credentials
	Store       *store.Store
	// Drivers run the workloads.
	Drivers workload.Drivers
	// Facts returns the inventory without the agent's version.
	Facts func() wire.Inventory
	// Health returns further conditions of the device; nil for none. It is called at
	// every look, after the drivers were asked whether they are ready.
	Health func() []wire.Condition
	// Restart says what the device itself lacks to run workloads after a restart, one
	// item each; nil for nothing. It is called after every look.
	Restart func() []string
	// Details says what the agent itself does not know of the device; nil for nothing. It
	// is called for every Status, and gives what scores ask for as Services.
	Details func() control.Details
	// HeartbeatInterval is the time between two heartbeats, SnapshotInterval the
	// one between two snapshot requests that nothing else asked for.
	HeartbeatInterval, SnapshotInterval time.Duration
	Log                                 *slog.Logger
}

// Agent runs one device. Make it with New.
type Agent struct {
	cfg        Config
	started    time.Time
	desired    *desired
	conditions *conditions
	reporter   *reporter
	reconciler *reconciler
	watcher    *watcher
	syncer     *syncer
	informer   *informer
	upkeep     *upkeep
	revocation *revocation
	queue      *queue.Queue[wire.DeploymentRef]
}

// New wires an agent and loads what it remembers. It starts nothing.
func New(cfg Config) *Agent {
	component := func(name string) *slog.Logger { return cfg.Log.With("component", name) }
	a := &Agent{cfg: cfg, started: time.Now().UTC()}
	a.conditions = newConditions(func() { a.informer.refresh() })
	a.desired = loadDesired(cfg.Store, component("desired"))
	stale := make(chan struct{}, 1)
	a.reporter = newReporter(cfg.Link, a.desired.forget, component("reporter"))
	a.reporter.stale = func() { dirty.Signal(stale) }
	a.reconciler = &reconciler{
		drivers:  cfg.Drivers,
		store:    cfg.Store,
		link:     cfg.Link,
		desired:  a.desired,
		reporter: a.reporter,
		log:      component("reconciler"),
		slots:    make(chan struct{}, maxSteps),
		fetches:  make(chan struct{}, maxFetches),
		troubles: newTroubles(),
		restarts: newRestarts(),
		stale:    func() { dirty.Signal(stale) },
	}
	a.reconciler.restore()
	a.queue = queue.New(component("reconciler"), a.reconciler.reconcile)
	a.reconciler.retry = a.queue.Now
	a.revocation = &revocation{
		link: cfg.Link, store: cfg.Store, device: cfg.Device, enrollment: cfg.Enrollment, desired: a.desired, queue: a.queue,
		log: component("revocation"),
	}
	a.revocation.restore()
	a.reconciler.halted = a.revocation.halted
	a.informer = &informer{cfg: cfg, conditions: a.conditions, reporter: a.reporter, log: component("informer")}
	a.upkeep = &upkeep{
		drivers: cfg.Drivers, store: cfg.Store, desired: a.desired, conditions: a.conditions, device: cfg.Restart, refused: a.reconciler.troubles.refused,
		again: make(chan struct{}, 1), log: component("upkeep"),
	}
	a.reconciler.changed = func() { dirty.Signal(a.upkeep.again) }
	a.watcher = &watcher{
		desired: a.desired, conditions: a.conditions, informer: a.informer, queue: a.queue,
		health: cfg.Health, store: cfg.Store, again: make(chan struct{}, 1), looked: a.reconciler.changed, log: component("watcher"),
	}
	for _, d := range cfg.Drivers {
		a.watcher.drivers = append(a.watcher.drivers, &watched{Driver: d, about: d.About()})
	}
	a.syncer = &syncer{
		link: cfg.Link, device: cfg.Device, hardwareID: cfg.HardwareID, capabilities: cfg.Drivers.Capabilities(), enrollment: cfg.Enrollment, store: cfg.Store,
		desired: a.desired, reporter: a.reporter, conditions: a.conditions, queue: a.queue,
		servers: cfg.Servers, interval: cfg.SnapshotInterval, again: make(chan struct{}, 1), stale: stale, log: component("syncer"),
	}
	return a
}

// Run runs the device until ctx ends; workloads go on. It calls ready once
// the last good manifest is being applied, which needs no network. It returns
// before ctx ends when the device has to be wiped, see Wiper.
func (a *Agent) Run(ctx context.Context, ready func()) {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	a.revocation.leave = leave
	a.informer.refresh()
	a.syncer.follow(a.desired.servers())
	a.syncer.showHeld()
	var parts sync.WaitGroup
	defer parts.Wait()
	for _, run := range []func(context.Context){
		a.queue.Run, a.watcher.run, a.upkeep.run, a.syncer.run, a.reporter.run, a.heartbeats, a.revocation.run, a.credentials,
	} {
		parts.Go(func() { run(ctx) })
	}
	ready()
	<-ctx.Done()
}

func (a *Agent) credentials(ctx context.Context) {
	a.cfg.Credentials.Run(ctx, a.cfg.Link, a.revocation.revoke)
}

// heartbeats says at intervals that the device is alive.
func (a *Agent) heartbeats(ctx context.Context) {
	timer := time.NewTimer(heartbeat.Second(time.Now(), a.cfg.HeartbeatInterval))
	defer timer.Stop()
	for {
		h := wire.Heartbeat{At: time.Now().Unix(), Uptime: int64(time.Since(a.started).Seconds())}
		if err := a.cfg.Link.Heartbeat(h); err != nil {
			a.cfg.Log.Debug("heartbeat not sent", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(heartbeat.Next(time.Now(), a.cfg.HeartbeatInterval))
		}
	}
}

// Refresh asks the server for a snapshot and looks at every workload and at the
// device again.
func (a *Agent) Refresh() {
	dirty.Signal(a.syncer.again)
	dirty.Signal(a.watcher.again)
	for _, ref := range a.desired.refs() {
		a.queue.Now(ref)
	}
}

// Status describes the agent for `fleet-agent status`.
func (a *Agent) Status() control.Status {
	server, linkErr := a.cfg.Link.Server()
	last, syncErr := a.syncer.last()
	s := control.Status{
		Device:       a.cfg.Device,
		Standing:     cmp.Or(a.revocation.standing(), a.syncer.standing()),
		AgentVersion: a.cfg.Version,
		Started:      a.started,
		Connected:    linkErr == nil,
		Server:       server,
		LastSnapshot: last,
		Manifest:     a.desired.version(),
		Held:         a.desired.held(),
		Conditions:   a.conditions.list(),
		Deployments:  a.reporter.states(),
	}
	if a.cfg.Details != nil {
		s.Details = a.cfg.Details()
	}
	s.Services = control.Join(s.Services, s.Deployments)
	credentials := a.cfg.Credentials.Status()
	s.CertificateExpires = credentials.Expires
	if credentials.Err != nil {
		s.RenewalError = credentials.Err.Error()
	}
	for _, err := range []error{syncErr, linkErr} { // why there is no connection explains the rest
		if err != nil {
			s.LastError = err.Error()
		}
	}
	return s
}

// ConfirmEpoch lets the omissions of the present manifest take effect although
// it comes from another epoch than what runs. It returns the Deployments that
// leave because of it. Errors come from the disk.
func (a *Agent) ConfirmEpoch() (control.Confirmation, error) {
	held := a.desired.held()
	if err := a.desired.confirm(); err != nil {
		return control.Confirmation{}, err
	}
	for _, ref := range held {
		a.queue.Now(ref)
	}
	a.syncer.showHeld()
	a.cfg.Log.Info("the operator confirmed the epoch", "epoch", a.desired.version().Epoch, "leaving", len(held))
	return control.Confirmation{Epoch: a.desired.version().Epoch, Leaving: slices.Clone(held)}, nil
}
