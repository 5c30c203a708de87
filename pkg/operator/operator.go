package operator

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/clock"
	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/controllers/term"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/handshake"
	"fleet.nationtech.io/fleet/pkg/parts"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/plane"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/remotebus"
	"fleet.nationtech.io/fleet/pkg/version"
)

// LeaseName is the Lease that the leader holds, in the operator's namespace.
const LeaseName = "fleet-operator"

const (
	// A leader that is gone is followed within leaseDuration and retryPeriod. One that cannot
	// renew its Lease for renewDeadline stops before another begins.
	leaseDuration = 10 * time.Second
	renewDeadline = 7 * time.Second
	retryPeriod   = 2 * time.Second
)

// ErrLost: another process leads.
var ErrLost = errors.New("the Lease is lost: another process leads, or the API is out of reach")

// Config is what an operator needs.
type Config struct {
	// API is the existing Kubernetes.
	API *rest.Config
	// Namespace is the operator's own, Identity the name of this process among its replicas.
	Namespace, Identity string
	// Bus is the existing NATS. The operator adds who decides about devices, and TLS.
	Bus remotebus.Config
	// EnrollListen is the host:port that devices enroll at.
	EnrollListen string
	// Hosts are the names and addresses by which devices reach it, at least one.
	Hosts []string
	// Servers are the URLs by which devices reach NATS, at least one. Certificates of NATS are
	// for these and for those of Bus.
	Servers []string
	// ScoreTypes are types of score that are unknown here and that devices are sent as they are.
	ScoreTypes []string
	Logger     *slog.Logger
}

// Operator is one process of a control plane.
type Operator struct {
	Config

	kube    kubernetes.Interface
	fleet   *client.Client
	metrics *prometheus.Registry
	panics  *guard.Panics
	queues  *reconcile.Metrics
	// leads is closed when this process leads and lets devices in. Until then why says what a
	// leader waits for; nil for a process that does not lead.
	leads chan struct{}
	why   atomic.Pointer[error]
}

// New returns an operator that does not run yet.
func New(c Config) (*Operator, error) {
	o := &Operator{Config: c, metrics: prometheus.NewRegistry(), panics: guard.NewPanics(), leads: make(chan struct{})}
	o.queues = reconcile.NewMetrics(o.panics)
	o.metrics.MustRegister(slices.Concat(o.panics.Collectors(), o.queues.Collectors())...)
	var err error
	if o.kube, err = kubernetes.NewForConfig(c.API); err != nil {
		return nil, err
	}
	o.fleet, err = client.New(c.API)
	return o, err
}

// Metrics are those of the process.
func (o *Operator) Metrics() prometheus.Gatherer { return o.metrics }

// Leads is closed when this process leads and lets devices in.
func (o *Operator) Leads() <-chan struct{} { return o.leads }

// ErrStarting: the process leads, and lets no devices in yet.
var ErrStarting = errors.New("the operator is starting")

// Ready returns nil for a process that lets devices in, or is ready to lead when the one that
// leads is gone; else what it waits for.
func (o *Operator) Ready() error {
	if err := o.why.Load(); err != nil {
		return *err
	}
	return nil
}

// Run works until ctx ends or this process cannot lead any more, and is called once. A process
// that does not lead waits.
func (o *Operator) Run(ctx context.Context) error {
	if err := checkDefinitions(ctx, o.kube.Discovery().RESTClient()); err != nil {
		return err
	}
	began := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: o.Namespace, Name: LeaseName},
			Client:     o.kube.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: o.Identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { began <- leading },
			OnStoppedLeading: func() {}, // the context that it began with has ended
			OnNewLeader: func(identity string) {
				if identity != o.Identity {
					o.Logger.Info("another process leads", "identity", identity)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("electing a leader: %w", err)
	}
	// The Lease is released when all work has ended, and no sooner.
	electing, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() { defer close(ended); elector.Run(electing) }()
	defer func() { stop(); <-ended }()
	select {
	case <-ctx.Done():
		return nil
	case leading := <-began:
		return o.work(ctx, leading)
	}
}

// work leads until ctx or the Lease ends.
func (o *Operator) work(ctx, leading context.Context) error {
	o.Logger.Info("this process leads", "identity", o.Identity)
	o.why.Store(&ErrStarting)
	working, stop := context.WithCancel(leading)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	err := o.lead(working)
	if errors.Is(err, context.Canceled) { // the start was broken off
		err = nil
	}
	if err == nil && ctx.Err() == nil {
		return ErrLost
	}
	return err
}

// lead does all work until ctx ends.
func (o *Operator) lead(ctx context.Context) error {
	l := &leader{Operator: o, parts: parts.New(o.Logger)}
	err := l.start(ctx)
	if err == nil {
		o.why.Store(nil)
		close(o.leads)
		select {
		case <-ctx.Done():
		case err = <-l.parts.Failed():
		}
	}
	return errors.Join(err, l.parts.Stop())
}

// leader holds what the steps of its start hand to each other.
type leader struct {
	*Operator

	parts *parts.Parts
	dir   string
	clock *clock.Clock
	pki   *pki.PKI
	// serving is the certificate of the enrollment listener, natsServing that of NATS.
	serving, natsServing *pki.Serving
	authorities          *authorities
	gate                 *plane.Gate
	bus                  *remotebus.Bus
	plane                *plane.Plane
}

func (l *leader) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{l.makeDir, l.loadPKI, l.startPlane, l.startEnrollment} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a directory for what the authorities want to have in files.
func (l *leader) makeDir(context.Context) (err error) {
	if l.dir, err = os.MkdirTemp("", "fleet-operator-"); err != nil {
		return fmt.Errorf("making a directory: %w: mount one that may be written at %s", err, os.TempDir())
	}
	l.parts.OnStop("directory", func() error { return os.RemoveAll(l.dir) })
	l.clock = clock.Open(filepath.Join(l.dir, "clock.json"), version.BuiltAt(), clock.System)
	l.loop("clock", func(ctx context.Context) error { return l.clock.Run(ctx, l.component("clock")) })
	return nil
}

// loadPKI makes authorities at the first start only.
func (l *leader) loadPKI(ctx context.Context) error {
	kept := &authorities{secrets: l.kube.CoreV1().Secrets(l.Namespace), dir: filepath.Join(l.dir, "pki")}
	l.authorities = kept
	if err := os.Mkdir(kept.dir, 0o700); err != nil {
		return fmt.Errorf("making a directory: %w", err)
	}
	if err := kept.fetch(ctx); err != nil {
		return err
	}
	var err error
	if l.pki, err = pki.Load(kept.dir, l.clock.Now()); err != nil {
		return err
	}
	if l.serving, err = l.pki.Serving("gateway", func() []string { return l.Hosts }, l.clock.Now); err != nil {
		return err
	}
	if l.natsServing, err = l.pki.Serving("nats", l.natsHosts, l.clock.Now); err != nil {
		return err
	}
	if err := errors.Join(kept.keep(ctx), l.publish(ctx)); err != nil {
		return err
	}
	l.loop("serving-certificates", func(ctx context.Context) error {
		return pki.KeepCurrent(ctx, l.component("pki"), l.serving, l.natsServing)
	})
	l.loop("nats-certificate", l.keepPublished)
	return nil
}

func (l *leader) startPlane(ctx context.Context) error {
	tombstones, err := openJournal(ctx, l.kube.CoreV1().Secrets(l.Namespace), maxChunk)
	if err != nil {
		return err
	}
	l.gate = plane.NewGate(plane.TrustDomain, tombstones)
	buckets, err := l.startBus(ctx)
	if err != nil {
		return err
	}
	t, err := term.Take(ctx, l.kube, l.Namespace, term.Term{})
	if err != nil {
		return err
	}
	l.plane, err = plane.New(ctx, plane.Config{
		Client: l.fleet, Kube: l.kube, Namespace: l.Namespace, Conn: l.bus.DeviceConn, Connections: l.bus, Buckets: buckets,
		Gate: l.gate, Tombstones: tombstones, Fleet: plane.TrustDomain, PKI: l.pki, Images: noImages{},
		Term: t, Servers: l.Servers, Clock: l.clock, Metrics: l.queues, Rules: acceptance.Rules{Types: l.ScoreTypes}, Logger: l.Logger,
	})
	if err != nil {
		return err
	}
	l.metrics.MustRegister(l.plane.Collectors()...)
	l.parts.Run("control plane", l.plane.Run)
	select {
	case <-l.plane.Ready():
		return nil
	case err := <-l.parts.Failed():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// busInterval is how often NATS is tried that is not as it should be.
const busInterval = 2 * time.Second

// startBus waits for NATS, which may be installed later, and answers it. Devices that connect
// meanwhile wait at the gate.
func (l *leader) startBus(ctx context.Context) (*bus.Buckets, error) {
	config := l.Bus
	config.DeviceCAs, config.Gate, config.Now, config.Panics, config.Logger = l.pki.Device, l.gate, l.clock.Now, l.panics, l.component("bus")
	config.Options = append(slices.Clone(config.Options), nats.Secure(l.clientTLS()), nats.TLSHandshakeFirst())
	for said := ""; ; {
		var err error
		if l.bus, err = remotebus.Start(ctx, config); err == nil {
			break
		}
		l.why.Store(&err)
		if text := err.Error(); text != said {
			said = text
			l.Logger.Warn("waiting for NATS", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(busInterval):
		}
	}
	l.why.Store(&ErrStarting)
	l.parts.OnStop("bus", func() error { l.bus.Close(); return nil })
	l.metrics.MustRegister(l.bus.Collectors()...)
	l.loop("bus", l.bus.Run)
	return bus.Open(ctx, l.bus.CoreConn, max(config.Replicas, 1))
}

func (l *leader) startEnrollment(context.Context) error {
	refused := enroll.NewRefusals()
	listener, err := net.Listen("tcp", l.EnrollListen)
	if err != nil {
		return fmt.Errorf("listening for enrollment: %w: choose another with --enroll-listen, or stop what uses this one", err)
	}
	limited := connlimit.New(listener, enroll.DefaultPlaces, refused.Count, l.component("enrollment"))
	handler := enroll.NewHandler(enroll.HandlerConfig{
		Service: l.plane.Enrollment(), Hosts: func() []string { return l.Hosts }, Servers: func(string) []string { return l.Servers },
		Signer: func() (crypto.Signer, error) { return l.serving.Certificate().PrivateKey.(crypto.Signer), nil },
	})
	l.metrics.MustRegister(slices.Concat(refused.Collectors(), handler.Collectors())...)
	served := enroll.ServerConfig{
		Handler: handler, Enrollment: handler, Certificate: l.serving.GetCertificate,
		Handshakes: handshake.NewGate(), Refusals: refused, Guard: l.panics.Loop("enrollment-requests", l.component("enrollment")),
	}
	l.parts.Run("enrollment listener", func(ctx context.Context) error { return enroll.Serve(ctx, limited, served) })
	return nil
}

// noImages: an operator holds no images.
type noImages struct{}

// Issue implements deviceapi.Registry.
func (noImages) Issue(string) (string, bool) { return "", false }

// Names implements deviceapi.Registry.
func (noImages) Names() []string { return nil }

// Upstreams implements deviceapi.Registry.
func (noImages) Upstreams() []string { return nil }

// loop runs a part that can begin anew: a mistake of the program only delays it.
func (l *leader) loop(name string, run func(context.Context) error) {
	g := l.panics.Loop(name, l.component(name))
	l.parts.Run(name, func(ctx context.Context) error { return g.Keep(ctx, run) })
}

func (o *Operator) component(name string) *slog.Logger { return o.Logger.With("component", name) }
