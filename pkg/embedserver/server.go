package embedserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/crds"
	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/deployment"
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/controllers/fleet"
	"fleet.nationtech.io/fleet/pkg/controllers/term"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/deviceapi/identity"
	"fleet.nationtech.io/fleet/pkg/pki"
)

const (
	// trustDomain is the fleet in spiffe://<fleet>/device/<id>. The authority
	// that signs is what tells fleets apart.
	trustDomain = "fleet"

	readyTimeout      = 60 * time.Second
	readHeaderTimeout = 10 * time.Second
	requestTimeout    = 30 * time.Second
)

// Config is what the server needs.
type Config struct {
	// DataDir holds everything that the server keeps. It is created.
	DataDir string
	// APIListen, NATSListen and EnrollListen are host:port.
	APIListen, NATSListen, EnrollListen string
	// TLSSANs are further names and addresses of the serving certificates.
	TLSSANs []string
	// Advertise is the list of NATS URLs that manifests carry; devices keep the
	// URL that they enrolled with when it is empty.
	Advertise []string
	Logger    *slog.Logger
}

// Ready says how a ready server is reached.
type Ready struct {
	API, NATS, Enroll net.Addr
	// Host is how the server calls itself: the first of TLSSANs, else the address
	// that it listens on, else one that other machines can reach.
	Host string
	// Kubeconfig is the path of the administrator's kubeconfig.
	Kubeconfig string
	// Buckets are open for as long as the server runs.
	Buckets *broker.Buckets
}

// Run runs a server until ctx ends. It calls ready once, when everything works.
func Run(ctx context.Context, c Config, ready func(Ready)) error {
	s := &server{Config: c, parts: newParts(c.Logger), presence: device.NewPresence(), metrics: prometheus.NewRegistry()}
	err := s.start(ctx)
	if err == nil {
		ready(s.ready())
		select {
		case <-ctx.Done():
		case err = <-s.parts.failed:
		}
	}
	return errors.Join(err, s.parts.stop())
}

// server holds what the steps of a start hand to each other.
type server struct {
	Config

	parts      *parts
	pki        *pki.PKI
	hosts      []string
	serving    pki.Pair
	apiPair    pki.Pair
	tombstones *identity.Tombstones
	registry   *identity.Registry
	presence   *device.Presence
	metrics    *prometheus.Registry

	apiListener, enrollListener net.Listener

	apiReady  <-chan struct{}
	loopback  *rest.Config
	kube      kubernetes.Interface
	client    *client.Client
	broker    *broker.Broker
	buckets   *broker.Buckets
	deviceAPI *deviceapi.Server
}

func (s *server) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.openDataDir, s.listen, s.loadPKI, s.startAPI, s.startBroker, s.awaitAPI, s.startControllers, s.startEnrollment,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) ready() Ready {
	return Ready{
		API: s.apiListener.Addr(), NATS: s.broker.Addr(), Enroll: s.enrollListener.Addr(),
		Host: preferredHost(s.TLSSANs, s.EnrollListen), Kubeconfig: s.path(KubeconfigName), Buckets: s.buckets,
	}
}

func (s *server) path(elem ...string) string {
	return filepath.Join(append([]string{s.DataDir}, elem...)...)
}

func (s *server) openDataDir(context.Context) error {
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return fmt.Errorf("creating the data directory: %w", err)
	}
	f, err := lock(s.DataDir)
	if err != nil {
		return err
	}
	s.parts.onStop("lock", f.Close)
	if s.tombstones, err = identity.OpenTombstones(s.path("revoked-keys.jsonl")); err != nil {
		return err
	}
	s.parts.onStop("revoked keys", s.tombstones.Close)
	s.registry = identity.NewRegistry(trustDomain, s.tombstones)
	return nil
}

// listen takes the ports before anything is written, so that one that is in
// use is an error at once.
func (s *server) listen(context.Context) (err error) {
	if s.apiListener, err = net.Listen("tcp", s.APIListen); err != nil {
		return fmt.Errorf("listening for the API: %w: stop what uses the port or choose another with --api-listen", err)
	}
	s.parts.onStop("API port", closeQuietly(s.apiListener))
	if s.enrollListener, err = net.Listen("tcp", s.EnrollListen); err != nil {
		return fmt.Errorf("listening for enrollment: %w: stop what uses the port or choose another with --enroll-listen", err)
	}
	s.parts.onStop("enrollment port", closeQuietly(s.enrollListener))
	return nil
}

func (s *server) loadPKI(context.Context) (err error) {
	now := time.Now()
	dir := s.path("pki")
	if s.pki, err = pki.Load(dir, now); err != nil {
		return err
	}
	s.hosts = servingHosts(s.TLSSANs)
	if s.serving, err = s.pki.Serving(dir, "gateway", s.hosts, now); err != nil {
		return err
	}
	if s.apiPair, err = s.pki.Serving(dir, "api", append([]string{apiserver.LoopbackHost}, s.hosts...), now); err != nil {
		return err
	}
	return s.writeKubeconfig(now)
}

func (s *server) startAPI(context.Context) error {
	encryption := s.path("encryption.yaml")
	if err := apiserver.EnsureEncryptionConfig(encryption); err != nil {
		return err
	}
	store, err := datastore.Open(s.DataDir)
	if err != nil {
		return err
	}
	s.parts.onStop("data store", func() error { store.Close(); return nil })
	api, err := apiserver.New(apiserver.Config{
		Listener: s.apiListener, CertFile: s.apiPair.CertFile, KeyFile: s.apiPair.KeyFile,
		RootPEM: s.pki.RootPEM(), ClientCAPEM: s.pki.Operator.PEM(),
		EtcdEndpoint: store.Endpoint, EncryptionConfigFile: encryption,
		CRDs: crds.Documents(), Metrics: s.metrics, Logger: s.Logger.With("component", "apiserver"),
	})
	if err != nil {
		return err
	}
	s.parts.run("API server", api.Run)
	s.apiReady, s.loopback = api.Ready(), api.Loopback()
	return nil
}

// startBroker starts NATS while the API server gets ready. Devices that
// connect meanwhile wait for the registry.
func (s *server) startBroker(ctx context.Context) error {
	certificate, err := s.serving.TLS()
	if err != nil {
		return err
	}
	s.broker, err = broker.Start(broker.Config{
		Listen: s.NATSListen, Certificate: certificate, DeviceCAs: s.pki.Device.Pool(), StoreDir: s.path("nats"),
		Devices: s.registry, Observer: s.presence, Logger: s.Logger.With("component", "nats"),
	})
	if err != nil {
		return err
	}
	s.metrics.MustRegister(s.broker.Collectors()...)
	s.parts.onStop("broker", func() error { s.broker.Shutdown(); return nil })
	s.buckets, err = s.broker.Buckets(ctx)
	return err
}

func (s *server) awaitAPI(ctx context.Context) (err error) {
	if err := s.await(ctx, "the API server", s.apiReady); err != nil {
		return err
	}
	if s.kube, err = kubernetes.NewForConfig(s.loopback); err != nil {
		return err
	}
	s.client, err = client.New(s.loopback)
	return err
}

// await waits for a part that tells when it is ready, and gives up when any
// part fails.
func (s *server) await(ctx context.Context, what string, ready <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	select {
	case <-ready:
		return nil
	case err := <-s.parts.failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
	}
}

func (s *server) startControllers(ctx context.Context) error {
	t, err := term.Take(ctx, s.kube)
	if err != nil {
		return err
	}
	devices, deployments := s.client.DeviceInformer(), s.client.DeploymentInformer()
	namespaces := informers.NewSharedInformerFactory(s.kube, 0).Core().V1().Namespaces().Informer()
	recorder := s.recorder()

	fleetController := fleet.New(fleet.Config{
		Client: s.client, Devices: devices, Deployments: deployments, Namespaces: namespaces,
		Buckets: s.buckets, Term: t, Servers: s.Advertise,
		Nudge:  func(name string) { s.deviceAPI.Nudge(name) },
		Logger: s.component("fleet-controller"),
	})
	s.deviceAPI = deviceapi.New(deviceapi.Config{
		Conn: s.broker.Devices, Buckets: s.buckets, Manifests: fleetController, Presence: s.presence,
		Kick: s.broker.Disconnect, Logger: s.component("device-api"),
	})
	s.metrics.MustRegister(s.deviceAPI.Collectors()...)
	s.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fleet_devices_connected", Help: "Devices that have a connection.",
	}, func() float64 { return float64(s.broker.ConnectedDevices()) }))
	deviceController := device.New(device.Config{
		Client: s.client, Devices: devices, Infos: s.buckets.Info, Registry: s.registry, Tombstones: s.tombstones,
		Presence: s.presence, Door: door{s.deviceAPI, s.broker}, Recorder: recorder, Logger: s.component("device-controller"),
	})
	deploymentController := &deployment.Controller{
		Client: s.client, Deployments: deployments, Namespaces: namespaces,
		Withdrawer: fleetController, Recorder: recorder, Logger: s.component("deployment-controller"),
	}
	for _, i := range []cache.SharedIndexInformer{devices, deployments, namespaces} {
		s.parts.run("informer", func(ctx context.Context) error { i.RunWithContext(ctx); return nil })
	}
	s.parts.run("fleet controller", fleetController.Run)
	s.parts.run("deployment controller", deploymentController.Run)
	s.parts.run("device controller", deviceController.Run)
	s.parts.run("device API", s.deviceAPI.Run)
	for _, ready := range []<-chan struct{}{fleetController.Ready(), deviceController.Ready(), s.deviceAPI.Ready()} {
		if err := s.await(ctx, "the controllers", ready); err != nil {
			return err
		}
	}
	// From here on devices that wait are let in: their first request is answered.
	s.registry.SetReady()
	return nil
}

func (s *server) startEnrollment(context.Context) error {
	certificate, err := s.serving.TLS()
	if err != nil {
		return err
	}
	natsPort := netip.MustParseAddrPort(s.broker.Addr().String()).Port()
	service := &enroll.Service{
		Fleet: trustDomain, Client: s.client, PKI: s.pki, Registry: s.registry, Tombstones: s.tombstones,
		Logger: s.component("enrollment"), Now: time.Now,
	}
	refusals := enroll.NewRefusals()
	s.metrics.MustRegister(refusals.Collectors()...)
	web := &http.Server{
		Handler:           refusals.Handler(enroll.NewHandler(service, fmt.Sprint(natsPort), s.hosts)),
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate}},
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: requestTimeout,
		MaxHeaderBytes: 8 << 10,
		ErrorLog:       log.New(refusals, "", 0),
	}
	s.parts.run("enrollment listener", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = web.Close() })
		defer stop()
		if err := web.ServeTLS(s.enrollListener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

func (s *server) component(name string) *slog.Logger { return s.Logger.With("component", name) }

func (s *server) recorder() record.EventRecorder {
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: s.kube.CoreV1().Events(metav1.NamespaceAll)})
	s.parts.onStop("event recorder", func() error { b.Shutdown(); return nil })
	return b.NewRecorder(client.Scheme(), corev1.EventSource{Component: "fleet-server"})
}

// door is what the device controller asks of the two halves of the door.
type door struct {
	*deviceapi.Server
	broker *broker.Broker
}

// Disconnect implements device.Door.
func (d door) Disconnect(name string) { d.broker.Disconnect(name) }

func closeQuietly(l net.Listener) func() error {
	return func() error {
		_ = l.Close() // its server has closed it already
		return nil
	}
}
