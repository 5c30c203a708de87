package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/clock"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
	"fleet.nationtech.io/fleet/pkg/controllers/census"
	"fleet.nationtech.io/fleet/pkg/controllers/deployment"
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/controllers/revisions"
	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/controllers/term"
	"fleet.nationtech.io/fleet/pkg/controllers/verdicts"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
	"fleet.nationtech.io/fleet/pkg/parts"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// forgetTimeout bounds the removal of what a device reported.
	forgetTimeout = 10 * time.Second
	// startTimeout bounds the time until every part is ready.
	startTimeout = 60 * time.Second
)

// Config is what a plane needs.
type Config struct {
	// Client and Kube are the API.
	Client *client.Client
	Kube   kubernetes.Interface
	// Namespace is the server's own: what it keeps for itself is there.
	Namespace string
	// FirstDevices is a list of Devices to begin with; nil for that of the API.
	FirstDevices client.FirstList
	// Conn is a connection to the bus in the account of the devices, Connections are
	// those of that account.
	Conn        *nats.Conn
	Connections bus.Connections
	Buckets     *bus.Buckets
	// Gate is the gate of the bus. The plane opens it.
	Gate       *Gate
	Tombstones *tombstone.List
	// Fleet is the trust domain of the certificates that PKI issues.
	Fleet  string
	PKI    *pki.PKI
	Images deviceapi.Registry
	// Term orders manifests.
	Term term.Term
	// Servers is the list of NATS URLs that manifests carry; devices keep the URL that
	// they enrolled with when it is empty.
	Servers []string
	Clock   *clock.Clock
	// Rules are what the operator decided about scores.
	Rules acceptance.Rules
	// Metrics count what the controllers' loops do.
	Metrics *reconcile.Metrics
	Logger  *slog.Logger
}

// Plane is a control plane.
type Plane struct {
	Config

	informers   *informers
	verdicts    *verdicts.Book
	assignments *assigner.Controller
	deployments *deployment.Controller
	devices     *device.Controller
	requests    *enrollment.Controller
	door        *deviceapi.Server
	enrollment  *enrollment.Service
	events      record.EventBroadcaster
	recorder    *events.Recorder
	ready       chan struct{}
}

// New returns a plane that does not run yet.
func New(ctx context.Context, c Config) (*Plane, error) {
	p := &Plane{Config: c, ready: make(chan struct{})}
	key, err := secrets.Key(ctx, c.Kube, c.Namespace)
	if err != nil {
		return nil, err
	}
	if p.informers, err = newInformers(c.Client, c.Kube, c.FirstDevices); err != nil {
		return nil, err
	}
	p.events = events.NewBroadcaster() // which runs from here on, until the plane has run
	recorder := events.NewRecorder(p.events.NewRecorder(client.Scheme(), corev1.EventSource{Component: "fleet-server"}))
	p.recorder = recorder
	resolver := &secrets.Resolver{Store: p.informers.secrets.GetStore(), ConfigMaps: p.informers.configMaps.GetStore(), Key: key}
	p.addLeader(recorder, resolver)
	p.addOwner()
	p.addDevices(recorder)
	p.Gate.outside.Connections, p.Gate.outside.devices, p.Gate.outside.strangers = c.Connections, p.devices, p.requests
	return p, nil
}

// addLeader makes what works on Deployments.
func (p *Plane) addLeader(recorder record.EventRecorder, resolver *secrets.Resolver) {
	i := p.informers
	p.verdicts = verdicts.New(verdicts.Config{
		Deployments: i.deployments.GetIndexer(), Namespaces: i.namespaces.GetStore(), Secrets: i.secrets.GetStore(), ConfigMaps: i.configMaps.GetStore(), Digests: resolver, Rules: p.Rules,
	})
	keeper := revisions.New(revisions.Config{
		Kube: p.Kube, Revisions: i.revisions,
		Live: func(ctx context.Context, namespace, name string) (*v1alpha1.Deployment, error) {
			return p.Client.Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		Held: func(ref wire.DeploymentRef) map[string]bool { return p.assignments.Held(ref) },
		Now:  p.Clock.Now, Metrics: p.Metrics, Logger: p.component("revisions"),
	})
	p.assignments = assigner.New(assigner.Config{
		Client: p.Client, Devices: i.devices, Deployments: i.deployments, Namespaces: i.namespaces, Secrets: i.secrets, ConfigMaps: i.configMaps,
		Verdicts: p.verdicts, Revisions: keeper, Resolver: resolver, Buckets: p.Buckets, Term: p.Term, Servers: p.Servers,
		Nudge:        func(name string) { p.door.Nudge(name) },
		LacksChanged: func(name string) { p.devices.StatusChanged(name) },
		Recorder:     recorder, Metrics: p.Metrics, Logger: p.component("assigner"),
	})
	p.deployments = &deployment.Controller{
		Client: p.Client, Deployments: i.deployments, Namespaces: i.namespaces, Secrets: i.secrets, ConfigMaps: i.configMaps,
		Verdicts: p.verdicts, Withdrawer: p.assignments, Recorder: recorder, Metrics: p.Metrics, Logger: p.component("deployment-controller"),
	}
}

// addOwner makes what answers devices.
func (p *Plane) addOwner() {
	p.door = deviceapi.New(deviceapi.Config{
		Conn: p.Conn, Buckets: p.Buckets, Manifests: p.assignments, Registry: p.Images,
		Roster: p.Gate.Roster, Connections: p.Connections, Metrics: p.Metrics, Logger: p.component("device-api"),
	})
	i := p.informers
	p.enrollment = &enrollment.Service{
		Fleet: p.Fleet, Client: p.Client, Tokens: i.tokens.GetStore(), PKI: p.PKI, Roster: p.Gate.Roster, Tombstones: p.Tombstones,
		Devices: i.devices.GetIndexer(), Requests: i.requests.GetIndexer(),
		ForgetReports: p.forgetReports, Metrics: p.Metrics, Logger: p.component("enrollment"), Clock: p.Clock,
	}
}

// addDevices makes what works on Devices and on requests to become one.
func (p *Plane) addDevices(recorder record.EventRecorder) {
	p.devices = device.New(device.Config{
		Client: p.Client, Devices: p.informers.devices, Infos: p.Buckets.Info, Roster: p.Gate.Roster, Tombstones: p.Tombstones,
		Door: p.door, Uses: p.enrollment, Lacks: p.assignments.Lacks, Problems: p.assignments.Problems, Recorder: recorder, Metrics: p.Metrics, Logger: p.component("device-controller"), Clock: p.Clock,
	})
	p.requests = enrollment.New(enrollment.Config{
		Client: p.Client, Tokens: p.informers.tokens, Requests: p.informers.requests, Devices: p.informers.devices, Service: p.enrollment, Recorder: recorder,
		Metrics: p.Metrics, Logger: p.component("enrollment-controller"), Now: p.Clock.Now,
	})
}

// Collectors are the plane's metrics.
func (p *Plane) Collectors() []prometheus.Collector {
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fleet_devices_connected", Help: "Devices that have a connection.",
	}, func() float64 { return float64(p.Gate.Count()) })
	entries := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fleet_roster_entries", Help: "Devices of which the server holds something in memory: keys, connections, sessions, budgets.",
	}, func() float64 { return float64(p.Gate.Roster.Len()) })
	counts := census.New(census.Config{
		Ready: p.ready, Devices: p.informers.devices.GetStore(), Requests: p.informers.requests.GetStore(),
		Phases: p.assignments.CountPhases, Now: p.Clock.Now,
	})
	return append(slices.Concat(p.door.Collectors(), p.verdicts.Collectors(), p.recorder.Collectors()), connected, entries, counts)
}

// Enrollment decides who enrolls.
func (p *Plane) Enrollment() *enrollment.Service { return p.enrollment }

// ImagesOf returns the names of the images that a device is told to run, and false while that
// is not known.
func (p *Plane) ImagesOf(device string) (names []string, known bool) {
	return p.assignments.Images(device)
}

// Ready is closed when devices are let in.
func (p *Plane) Ready() <-chan struct{} { return p.ready }

// Run works until ctx ends, or a part fails. It is called once.
func (p *Plane) Run(ctx context.Context) error {
	running := parts.New(p.Logger)
	p.events.StartRecordingToSink(events.CountWrites(&typedcorev1.EventSinkImpl{Interface: p.Kube.CoreV1().Events(metav1.NamespaceAll)}, p.Metrics))
	running.OnStop("event recorder", func() error { p.events.Shutdown(); return nil })
	p.informers.run(running)
	running.Run("assigner", p.assignments.Run)
	running.Run("deployment controller", p.deployments.Run)
	running.Run("device controller", p.devices.Run)
	running.Run("enrollment controller", p.requests.Run)
	running.Run("certificate check", func(ctx context.Context) error {
		return p.Metrics.Loop("certificate-check", p.Logger).Keep(ctx, dropExpired(p.Gate.Roster, p.Clock.Now, p.Logger))
	})
	running.Run("device API", p.door.Run)
	err := p.open(ctx, running)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-running.Failed():
		}
	}
	return errors.Join(err, running.Stop())
}

// open opens the gate once manifests are complete and every key is known.
func (p *Plane) open(ctx context.Context, running *parts.Parts) error {
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// Before the requests are listed, a key could ask for a second name.
	for _, ready := range []<-chan struct{}{p.assignments.Ready(), p.devices.Ready(), p.door.Ready(), p.informers.requests.HasSyncedChecker().Done()} {
		select {
		case <-ready:
		case err := <-running.Failed():
			return err
		case <-starting.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("waiting for the controllers: %w", starting.Err())
		}
	}
	p.Gate.Open()
	close(p.ready)
	return nil
}

// forgetReports removes what a machine reported that another one replaces: its
// architecture, for example.
func (p *Plane) forgetReports(device string) {
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	if err := p.door.Forget(ctx, device); err != nil {
		p.Logger.Warn("removing the reports of a machine that is replaced", "device", device, "error", err)
	}
}

func (p *Plane) component(name string) *slog.Logger { return p.Logger.With("component", name) }
