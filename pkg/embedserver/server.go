package embedserver

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/adminapi"
	"fleet.nationtech.io/fleet/pkg/apis/crds"
	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/clock"
	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/deviceapi/enroll"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/handshake"
	"fleet.nationtech.io/fleet/pkg/parts"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/plane"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/refusals"
	"fleet.nationtech.io/fleet/pkg/registry"
	"fleet.nationtech.io/fleet/pkg/registry/cache"
	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/version"
)

const (
	readyTimeout = 60 * time.Second
)

// Config is what the server needs.
type Config struct {
	// DataDir holds everything that the server keeps. It is created.
	DataDir string
	// APIListen, NATSListen and EnrollListen are host:port.
	APIListen, NATSListen, EnrollListen string
	// TLSSANs returns further names and addresses of the serving certificates. It
	// is asked every minute; nil is none.
	TLSSANs func() []string
	// Advertise is the list of NATS URLs that manifests carry; devices keep the
	// URL that they enrolled with when it is empty.
	Advertise []string
	// Images says which images of other registries the server keeps.
	Images ImageCache
	// ScoreTypes are types of score that are unknown here and that devices are sent as they
	// are.
	ScoreTypes []string
	// Clock is where the time comes from; clock.System when it is zero.
	Clock  clock.Source
	Logger *slog.Logger
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
	Buckets *bus.Buckets
	// Live reports whether the API server answers, over a connection in memory that
	// strangers take nothing away from.
	Live func(context.Context) error
	// Panics are those that the loops of the process survive.
	Panics *guard.Panics
}

// Run runs a server until ctx ends. It calls ready once, when everything works.
func Run(ctx context.Context, c Config, ready func(Ready)) error {
	s := &server{Config: c, parts: parts.New(c.Logger), metrics: prometheus.NewRegistry(), panics: guard.NewPanics(), handshakes: handshake.NewGate(), up: make(chan struct{})}
	s.queues = reconcile.NewMetrics(s.panics)
	s.metrics.MustRegister(slices.Concat(s.panics.Collectors(), s.queues.Collectors())...)
	err := s.start(ctx)
	if err == nil {
		s.noteReady()
		ready(s.ready())
		select {
		case <-ctx.Done():
		case err = <-s.parts.Failed():
		}
	}
	return errors.Join(err, s.parts.Stop())
}

// server holds what the steps of a start hand to each other.
type server struct {
	Config

	parts      *parts.Parts
	clock      *clock.Clock
	pki        *pki.PKI
	serving    *pki.Serving // of 4222 and 8443
	apiServing *pki.Serving
	tombstones *tombstone.List
	gate       *plane.Gate
	metrics    *prometheus.Registry
	panics     *guard.Panics
	queues     *reconcile.Metrics

	places                      places
	apiListener, enrollListener *connlimit.Listener
	apiRefusals                 *prometheus.CounterVec
	enrollRefusals              *enroll.Refusals
	// handshakes is one for the listeners that strangers reach.
	handshakes *handshake.Gate

	store    *datastore.Datastore
	api      *apiserver.Server
	devices  *storedDevices
	loopback *rest.Config
	kube     kubernetes.Interface
	client   *client.Client
	broker   *broker.Broker
	buckets  *bus.Buckets
	plane    *plane.Plane

	release *release.Store
	images  *registry.Issuer
	cache   *cache.Cache

	// up is closed at the end of the start.
	up chan struct{}
}

func (s *server) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.openDataDir, s.listen, s.loadPKI, s.startAPI, s.startBroker, s.awaitAPI, s.startPlane, s.startEnrollment,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	close(s.up)
	return nil
}

// isUp reports whether the start has ended.
func (s *server) isUp() bool {
	select {
	case <-s.up:
		return true
	default:
		return false
	}
}

func (s *server) ready() Ready {
	return Ready{
		API: s.apiListener.Addr(), NATS: s.broker.Addr(), Enroll: s.enrollListener.Addr(),
		Host: s.host(), Kubeconfig: s.path(KubeconfigName), Buckets: s.buckets, Live: s.live, Panics: s.panics,
	}
}

// full tells that a store has no room. While the server starts, it uses what it keeps
// back otherwise: it writes a few kilobytes, and without them nobody could make room by
// deleting what is in the store.
func (s *server) full(store *datastore.Datastore) func() error {
	return func() error {
		if !s.isUp() {
			return nil
		}
		return store.Full()
	}
}

// live asks the API server whether it lives. A disk that hangs is left to the check of
// readiness: a restart does not fix it.
func (s *server) live(ctx context.Context) error {
	return s.kube.Discovery().RESTClient().Get().AbsPath("/livez").Param("exclude", "etcd").Do(ctx).Error()
}

func (s *server) host() string { return preferredHost(s.sans(), s.EnrollListen) }

// hosts are the names and addresses under which the server may be reached now.
func (s *server) hosts() []string { return servingHosts(s.sans()) }

func (s *server) sans() []string {
	if s.TLSSANs == nil {
		return nil
	}
	return s.TLSSANs()
}

func (s *server) path(elem ...string) string {
	return filepath.Join(append([]string{s.DataDir}, elem...)...)
}

func (s *server) openDataDir(context.Context) error {
	if err := os.MkdirAll(s.DataDir, 0o700); err != nil {
		return fmt.Errorf("creating the data directory: %w: choose another --data-dir, or start as a user that may write there", err)
	}
	f, err := lock(s.DataDir)
	if err != nil {
		return err
	}
	s.parts.OnStop("lock", f.Close)
	if err := atomicfile.Sweep(s.DataDir, s.path("pki")); err != nil {
		s.Logger.Warn("sweeping the data directory", "error", err)
	}
	if s.tombstones, err = tombstone.Open(s.path("revoked-keys.jsonl")); err != nil {
		return err
	}
	s.parts.OnStop("revoked keys", s.tombstones.Close)
	s.gate = plane.NewGate(plane.TrustDomain, s.tombstones)
	s.startClock()
	s.release = release.Open(s.DataDir)
	s.images = registry.NewIssuer(s.gate, s.clock.Now)
	return s.openCache()
}

// OpenClock opens the clock of a server's data directory. A command that has no
// server to ask believes what that would believe after a start.
func OpenClock(dataDir string, source clock.Source) *clock.Clock {
	return clock.Open(filepath.Join(dataDir, "clock.json"), version.BuiltAt(), source)
}

func (s *server) startClock() {
	source := s.Config.Clock
	if source.Wall == nil {
		source = clock.System
	}
	s.clock = OpenClock(s.DataDir, source)
	s.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fleet_clock_sane", Help: "1 while the server believes its clock, else 0.",
	}, func() float64 {
		if s.clock.Sane() != nil {
			return 0
		}
		return 1
	}))
	s.loop("clock", func(ctx context.Context) error { return s.clock.Run(ctx, s.component("clock")) })
}

// listen takes the ports before anything is written, so that one that is in
// use is an error at once.
func (s *server) listen(context.Context) error {
	s.sharePlaces()
	s.enrollRefusals = enroll.NewRefusals()
	s.metrics.MustRegister(s.enrollRefusals.Collectors()...)
	api, err := net.Listen("tcp", s.APIListen)
	if err != nil {
		return fmt.Errorf("listening for the API: %w: choose another with --api-listen, or stop what uses this one", err)
	}
	s.apiRefusals = refusals.New(refusals.API)
	s.metrics.MustRegister(s.apiRefusals)
	s.apiListener = connlimit.New(api, s.places.api, func(reason string) { s.apiRefusals.WithLabelValues(reason).Inc() }, s.component("api"))
	s.parts.OnStop("API port", closeQuietly(s.apiListener))
	enrollment, err := net.Listen("tcp", s.EnrollListen)
	if err != nil {
		return fmt.Errorf("listening for enrollment: %w: choose another with --enroll-listen, or stop what uses this one", err)
	}
	s.enrollListener = connlimit.New(enrollment, s.places.enrollment, s.enrollRefusals.Count, s.component("enrollment"))
	s.parts.OnStop("enrollment port", closeQuietly(s.enrollListener))
	return nil
}

// loadPKI makes authorities at the first start only: new ones lock devices out
// that have certificates of others.
func (s *server) loadPKI(context.Context) (err error) {
	if dir := s.path("pki"); !exists(dir) && exists(s.path(datastore.FileName)) {
		return fmt.Errorf("the certificate authorities are lost: %s does not exist: restore it from a backup, or make it empty for new ones, at which every device enrolls again", dir)
	}
	if s.pki, err = pki.Load(s.path("pki"), s.clock.Now()); err != nil {
		return err
	}
	if s.serving, err = s.pki.Serving("gateway", s.hosts, s.clock.Now); err != nil {
		return err
	}
	if s.apiServing, err = s.pki.Serving("api", s.hosts, s.clock.Now); err != nil {
		return err
	}
	s.loop("serving-certificates", func(ctx context.Context) error {
		return pki.KeepCurrent(ctx, s.component("pki"), s.serving, s.apiServing)
	})
	return s.writeKubeconfig(s.clock.Now())
}

func (s *server) startAPI(context.Context) error {
	// A new key would not do for a database that has Secrets already.
	encryption := s.path("encryption.yaml")
	lost := !exists(encryption) && exists(s.path(datastore.FileName))
	if !lost {
		if err := apiserver.EnsureEncryptionConfig(encryption); err != nil {
			return err
		}
	}
	store, err := datastore.Open(s.DataDir, s.panics, s.component("datastore"))
	if err != nil {
		return err
	}
	s.parts.OnStop("data store", func() error { store.Close(); return nil })
	s.store = store
	s.readDevices(store)
	s.metrics.MustRegister(store.Collector(), s.busBytes())
	if lost {
		return fmt.Errorf("the key of Secrets is lost: %s does not exist: restore it from a backup", encryption)
	}
	s.api, err = apiserver.New(apiserver.Config{
		Listener: s.apiListener, Handshakes: s.handshakes, Certificate: s.apiServing.GetCertificate, Refusals: s.apiRefusals,
		Sizes: store.Sizes, Full: s.full(store), Memory: memoryForRequests(),
		ClientCAs: s.pki.Operator.PEM, Now: s.clock.Now,
		Handlers:     map[string]http.Handler{adminapi.Path: adminapi.NewHandler(admin{s})},
		EtcdEndpoint: store.Endpoint, EncryptionConfigFile: encryption,
		CRDs: crds.Documents(), Reviews: []apiserver.Review{scores(acceptance.Rules{Types: s.ScoreTypes}), deviceLabels(), selectors(), privileges()}, Started: s.up, Metrics: s.metrics, Queues: s.queues, Logger: s.Logger.With("component", "apiserver"),
	})
	if err != nil {
		return err
	}
	s.parts.Run("API server", s.api.Run)
	s.loopback = s.api.Loopback()
	return nil
}

// startBroker starts NATS while the API server gets ready. Devices that
// connect meanwhile wait at the gate.
func (s *server) startBroker(ctx context.Context) error {
	var err error
	s.broker, err = broker.Start(broker.Config{
		Handshakes: s.handshakes, Places: s.places.bus,
		Listen: s.NATSListen, Certificate: s.serving.GetCertificate, DeviceCAs: s.pki.Device, OperatorCAs: s.pki.Operator, Now: s.clock.Now, StoreDir: s.path("nats"),
		Gate: s.gate, Panics: s.panics, Logger: s.component("nats"),
	})
	if err != nil {
		return err
	}
	s.metrics.MustRegister(s.broker.Collectors()...)
	s.parts.OnStop("broker", func() error { s.broker.Shutdown(); return nil })
	if s.buckets, err = bus.Open(ctx, s.broker.Core, 1); err != nil {
		return err
	}
	s.buckets.Bound(busDisk{s.store})
	s.parts.Run("bus", s.watchBuckets)
	return nil
}

// busDisk is the disk of the data directory.
type busDisk struct{ *datastore.Datastore }

// Room implements bus.Disk.
func (d busDisk) Room(bytes int64) error { return d.RoomForBus(bytes) }

// watchBuckets ends the server when a bucket is of no use any more: it is whole after the
// next start, and whoever runs the server starts it again.
func (s *server) watchBuckets(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.buckets.Stuck():
		return fmt.Errorf("%w: the server has to start anew", err)
	}
}

func (s *server) awaitAPI(ctx context.Context) (err error) {
	if err := s.await(ctx, "the API server", s.api.Ready()); err != nil {
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
	case err := <-s.parts.Failed():
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
	}
}

// startPlane starts the controllers and the device API, and waits until devices are
// let in.
func (s *server) startPlane(ctx context.Context) error {
	t, err := s.takeTerm(ctx)
	if err != nil {
		return err
	}
	s.plane, err = plane.New(ctx, plane.Config{
		Client: s.client, Kube: s.kube, Namespace: metav1.NamespaceSystem, FirstDevices: s.devices.take, Conn: s.broker.Devices, Connections: s.broker, Buckets: s.buckets,
		Gate: s.gate, Tombstones: s.tombstones, Fleet: plane.TrustDomain, PKI: s.pki, Images: images{s},
		Term: t, Servers: s.Advertise, Clock: s.clock, Metrics: s.queues, Rules: acceptance.Rules{Types: s.ScoreTypes}, Logger: s.Logger,
	})
	if err != nil {
		return err
	}
	s.metrics.MustRegister(s.plane.Collectors()...)
	s.parts.Run("control plane", s.plane.Run)
	return s.await(ctx, "the controllers", s.plane.Ready())
}

func (s *server) startEnrollment(context.Context) error {
	natsPort := fmt.Sprint(netip.MustParseAddrPort(s.broker.Addr().String()).Port())
	handler := enroll.NewHandler(enroll.HandlerConfig{
		Service: s.plane.Enrollment(), Hosts: s.hosts,
		Servers: func(host string) []string { return []string{"tls://" + net.JoinHostPort(host, natsPort)} },
		Signer:  func() (crypto.Signer, error) { return s.serving.Certificate().PrivateKey.(crypto.Signer), nil },
	})
	s.metrics.MustRegister(handler.Collectors()...)
	served := enroll.ServerConfig{
		Handler: s.withDownloads(handler), Enrollment: handler, Certificate: s.serving.GetCertificate,
		Handshakes: s.handshakes, Refusals: s.enrollRefusals, Guard: s.panics.Loop("enrollment-requests", s.component("enrollment")),
	}
	keeper := &release.Keeper{Store: s.release, Clock: s.clock, Logger: s.component("release")}
	s.loop("release-signatures", keeper.Run)
	s.loop("enrollment-address", s.publishDoor)
	s.parts.Run("enrollment listener", func(ctx context.Context) error { return enroll.Serve(ctx, s.enrollListener, served) })
	return nil
}

// busBytes is what the bus has on disk.
func (s *server) busBytes() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fleet_bus_bytes", Help: "Size of the files of the JetStream buckets.",
	}, func() float64 { return float64(sizeOfTree(s.path("nats"))) })
}

// sizeOfTree adds up the files below a directory, but for those that are deleted
// meanwhile.
func sizeOfTree(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}

// loop runs a part that can begin anew: a mistake of the program only delays it.
func (s *server) loop(name string, run func(context.Context) error) {
	g := s.panics.Loop(name, s.component(name))
	s.parts.Run(name, func(ctx context.Context) error { return g.Keep(ctx, run) })
}

func (s *server) component(name string) *slog.Logger { return s.Logger.With("component", name) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func closeQuietly(l net.Listener) func() error {
	return func() error {
		_ = l.Close() // its server has closed it already
		return nil
	}
}
