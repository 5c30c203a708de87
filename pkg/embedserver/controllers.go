package embedserver

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeinformers "k8s.io/client-go/informers"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
	"fleet.nationtech.io/fleet/pkg/controllers/deployment"
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/controllers/enrollment"
	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/deviceapi/identity"
	"fleet.nationtech.io/fleet/pkg/deviceapi/session"
)

// forgetTimeout bounds the removal of what a device reported.
const forgetTimeout = 10 * time.Second

// informers are caches of the API's objects.
type informers struct {
	devices, deployments, namespaces, secrets, tokens, requests cache.SharedIndexInformer
}

func (s *server) newInformers() *informers {
	core := kubeinformers.NewSharedInformerFactory(s.kube, 0).Core().V1()
	return &informers{
		devices: s.client.DeviceInformer(), deployments: s.client.DeploymentInformer(),
		namespaces: core.Namespaces().Informer(), secrets: core.Secrets().Informer(),
		tokens: s.client.EnrollmentTokenInformer(), requests: s.client.EnrollmentRequestInformer(),
	}
}

func (i *informers) all() []cache.SharedIndexInformer {
	return []cache.SharedIndexInformer{i.devices, i.deployments, i.namespaces, i.secrets, i.tokens, i.requests}
}

// startControllers starts the controllers and the device API, which depend on
// each other, and lets devices in once manifests are complete.
func (s *server) startControllers(ctx context.Context) error {
	i, recorder := s.newInformers(), s.recorder()
	observer := s.observers
	sessions := session.NewTable(observer, s.broker, time.Now)
	assignments, deploymentController, err := s.newDeploymentControllers(ctx, i, recorder, observer)
	if err != nil {
		return err
	}
	s.deviceAPI = deviceapi.New(deviceapi.Config{
		Conn: s.broker.Devices, Buckets: s.buckets, Manifests: assignments, Presence: s.presence,
		Registry: images{s}, Sessions: sessions, Connections: s.broker, Outdated: observer.Outdated, Logger: s.component("device-api"),
	})
	s.metrics.MustRegister(append(s.deviceAPI.Collectors(), s.connectedDevices())...)
	observer.devices = device.New(device.Config{
		Client: s.client, Devices: i.devices, Infos: s.buckets.Info, Registry: s.registry, Tombstones: s.tombstones,
		Presence: s.presence, Sessions: sessions, Door: s.deviceAPI, Connections: s.broker, Lacks: assignments.Lacks, Recorder: recorder, Logger: s.component("device-controller"), Clock: s.clock,
	})
	if s.enrollment, err = s.newEnrollment(i, sessions); err != nil {
		return err
	}
	observer.enrollment = enrollment.New(enrollment.Config{
		Client: s.client, Tokens: i.tokens, Requests: i.requests, Binder: s.enrollment, Recorder: recorder,
		Logger: s.component("enrollment-controller"), Now: s.clock.Now,
	})
	observer.sessions = sessions
	s.registry.Observe(observer)

	for _, informer := range i.all() {
		s.parts.run("informer", func(ctx context.Context) error { informer.RunWithContext(ctx); return nil })
	}
	s.parts.run("assigner", assignments.Run)
	s.parts.run("deployment controller", deploymentController.Run)
	s.parts.run("device controller", observer.devices.Run)
	s.parts.run("enrollment controller", observer.enrollment.Run)
	s.parts.run("certificate check", dropExpired(s.broker, s.clock.Now, s.Logger))
	s.parts.run("device API", s.deviceAPI.Run)
	// Before the requests are listed, a key could ask for a second name.
	for _, ready := range []<-chan struct{}{assignments.Ready(), observer.devices.Ready(), s.deviceAPI.Ready(), i.requests.HasSyncedChecker().Done()} {
		if err := s.await(ctx, "the controllers", ready); err != nil {
			return err
		}
	}
	// From here on devices that wait are let in: their first request is answered.
	s.registry.SetReady()
	return nil
}

// newDeploymentControllers returns the two controllers that work on Deployments.
func (s *server) newDeploymentControllers(ctx context.Context, i *informers, recorder record.EventRecorder, observer *observers) (*assigner.Controller, *deployment.Controller, error) {
	t, err := s.takeTerm(ctx)
	if err != nil {
		return nil, nil, err
	}
	key, err := secrets.Key(ctx, s.kube)
	if err != nil {
		return nil, nil, err
	}
	resolver := &secrets.Resolver{Store: i.secrets.GetStore(), Key: key}
	f := assigner.New(assigner.Config{
		Client: s.client, Devices: i.devices, Deployments: i.deployments, Namespaces: i.namespaces, Secrets: i.secrets,
		Resolver: resolver, Buckets: s.buckets, Term: t, Servers: s.Advertise,
		Nudge:        func(name string) { s.deviceAPI.Nudge(name) },
		LacksChanged: func(name string) { observer.devices.LacksChanged(name) },
		Logger:       s.component("assigner"),
	})
	return f, &deployment.Controller{
		Client: s.client, Deployments: i.deployments, Namespaces: i.namespaces, Secrets: i.secrets,
		Digests: resolver, Withdrawer: f, Recorder: recorder, Logger: s.component("deployment-controller"),
	}, nil
}

func (s *server) newEnrollment(i *informers, sessions *session.Table) (*enroll.Service, error) {
	for _, holders := range []cache.SharedIndexInformer{i.devices, i.requests} {
		if err := holders.AddIndexers(enroll.KeyIndexers()); err != nil {
			return nil, err
		}
	}
	return &enroll.Service{
		Fleet: trustDomain, Client: s.client, Tokens: i.tokens.GetStore(), PKI: s.pki, Registry: s.registry, Tombstones: s.tombstones,
		Suspected: sessions.Suspected, CurrentSession: sessions.Current, KeyRefused: s.broker.DropKey,
		Holders: []cache.Indexer{i.devices.GetIndexer(), i.requests.GetIndexer()},
		Replaced: func(name string) {
			s.broker.Drop(name)
			s.forgetReports(name)
			sessions.Forget(name)
		},
		Logger: s.component("enrollment"), Clock: s.clock,
	}, nil
}

// forgetReports removes what a machine reported that another one replaces: its
// architecture, for example.
func (s *server) forgetReports(device string) {
	ctx, cancel := context.WithTimeout(context.Background(), forgetTimeout)
	defer cancel()
	if err := s.deviceAPI.ForgetReports(ctx, device); err != nil {
		s.Logger.Warn("removing the reports of a machine that is replaced", "device", device, "error", err)
	}
}

func (s *server) connectedDevices() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fleet_devices_connected", Help: "Devices that have a connection.",
	}, func() float64 { return float64(s.broker.Count()) })
}

func (s *server) recorder() record.EventRecorder {
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.kube.CoreV1().Events(metav1.NamespaceAll)})
	s.parts.onStop("event recorder", func() error { b.Shutdown(); return nil })
	return b.NewRecorder(client.Scheme(), corev1.EventSource{Component: "fleet-server"})
}

// observers passes on what the registry and the table of sessions notice.
type observers struct {
	devices    *device.Controller
	enrollment *enrollment.Controller
	sessions   *session.Table
}

// Retired implements identity.Observer.
func (o *observers) Retired(name string, s identity.Shown) {
	o.sessions.Retired(name, s.Session, bus.Proof{Key: s.Fingerprint, Address: s.Address})
}

// Outdated tells of a device whose agent is too old. Devices wait to be let in until
// there is somebody to tell.
func (o *observers) Outdated(name string) { o.devices.Outdated(name) }

// Stranger implements identity.Observer.
func (o *observers) Stranger(name, fingerprint string, expires time.Time) {
	o.enrollment.Stranger(name, fingerprint, expires)
}

// SessionChanged implements session.Observer.
func (o *observers) SessionChanged(name string) { o.devices.SessionChanged(name) }

// SessionProven implements session.Observer.
func (o *observers) SessionProven(name string, p bus.Proof) { o.devices.SessionProven(name, p) }
