package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apiextensionsoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapiv3"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	authorizerunion "k8s.io/apiserver/pkg/authorization/union"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/mux"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/kube-openapi/pkg/common"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/apiserver/openapi"
	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/handshake"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// LoopbackHost is the name under which the server's own clients reach it.
const LoopbackHost = genericapiserver.LoopbackClientServerNameOverride

// How long requests and watches of others may hold up the end of the server.
// The HTTP server itself waits a second for connections to be closed by peers.
const (
	watchGrace   = time.Second
	shutdownTime = 2 * time.Second
)

const (
	// StoragePrefix is where everything is stored.
	StoragePrefix = "/registry"
	// maxBody bounds the body of a request, and with it an object, as etcd does.
	maxBody = 1536 << 10
	// maxCopied is how much the copy operations of a patch may make of it.
	maxCopied = 64 << 10
)

// masters is the group that may do everything.
const masters = "system:masters"

// healthPaths answer without a client certificate.
var healthPaths = []string{"/healthz", "/livez", "/readyz"}

// Config is what an API server needs. Every field is mandatory.
type Config struct {
	// Listener accepts the connections of others; the server's own clients need none.
	Listener *connlimit.Listener
	// Handshakes lets handshakes through.
	Handshakes *handshake.Gate
	// Certificate returns the serving certificate. It is asked at each handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs returns, in PEM, the authorities whose certificates name API users.
	// It is asked at each request.
	ClientCAs func() []byte
	// Now is the clock that certificates of clients are verified by.
	Now func() time.Time
	// EtcdEndpoint is the URL of the storage, see package datastore.
	EtcdEndpoint string
	// Sizes tells how much is stored below a prefix.
	Sizes func(ctx context.Context, prefix string) (datastore.Size, error)
	// Full tells, with numbers, that there is no room for writes.
	Full func() error
	// Memory bounds, in bytes, what requests of others may take at one time.
	Memory int64
	// EncryptionConfigFile is a Kubernetes encryption configuration.
	EncryptionConfigFile string
	// CRDs are YAML documents, each a CustomResourceDefinition, that the server
	// applies at start and refuses to delete.
	CRDs [][]byte
	// Reviews refuse what no definition can.
	Reviews []Review
	// Handlers serve paths beside the API, each with what is below it. A client
	// needs all rights to reach them.
	Handlers map[string]http.Handler
	// Metrics are shown under /metrics beside those of the API server itself.
	Metrics prometheus.Gatherer
	// Started is closed when the whole process has started, of which the server is a
	// part. Garbage is collected from then on: to list everything there is takes as much
	// of the processor as the rest of a start. Nil for at once.
	Started <-chan struct{}
	// Queues count what the server's own loops do.
	Queues *reconcile.Metrics
	// Refusals counts what the listener turns away, by reason.
	Refusals *prometheus.CounterVec
	Logger   *slog.Logger
}

// Server is an API server that has been configured but may not run yet.
type Server struct {
	generic  *genericapiserver.GenericAPIServer
	front    *front
	inside   *inside
	loopback *rest.Config
	ready    chan struct{}
	// failed gets the error of a bootstrap that could not be done.
	failed chan error
}

// New builds a server. Nothing is served before Run.
func New(c Config) (*Server, error) {
	b := &builder{Config: c}
	s, err := b.build()
	if err != nil {
		return nil, fmt.Errorf("configuring the API server: %w", err)
	}
	return s, nil
}

// Loopback returns a client configuration with all rights, without rate limit.
func (s *Server) Loopback() *rest.Config { return rest.CopyConfig(s.loopback) }

// Ready is closed when every definition of Config.CRDs is served.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends, then lets requests finish. A server that is told
// to stop while it starts finishes its start first: upstream's hooks end the
// whole process when they are interrupted.
func (s *Server) Run(ctx context.Context) error {
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	go func() {
		select {
		case <-s.ready:
			<-ctx.Done()
			stop(nil)
		case err := <-s.failed:
			stop(err)
		case <-running.Done():
		}
	}()
	prepared := s.generic.PrepareRun()
	var fronting errgroup.Group
	fronting.Go(func() error {
		err := s.front.serve(running)
		if err != nil {
			stop(err)
		}
		return err
	})
	err := errors.Join(prepared.RunWithContext(running), fronting.Wait())
	s.inside.hangUp()
	if err != nil {
		return err
	}
	if err := context.Cause(running); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// builder holds what the steps of New hand to each other.
type builder struct {
	Config

	crds          []*apiextensionsv1.CustomResourceDefinition
	codecs        serializer.CodecFactory
	clientCAs     *clientCAs
	authenticator authenticator.Request
	inside        *inside
	loopback      []byte // certificate of the server's own clients' connections
	generic       *genericapiserver.RecommendedConfig
	etcd          *genericoptions.EtcdOptions
	client        kubernetes.Interface
	dynamic       dynamic.Interface
	informers     informers.SharedInformerFactory
	openAPIV2     *common.Config
}

func (b *builder) build() (*Server, error) {
	scheme, codecs := newScheme()
	b.codecs = codecs
	var err error
	if b.crds, err = decodeCRDs(b.CRDs); err != nil {
		return nil, err
	}
	b.generic = genericapiserver.NewRecommendedConfig(apiextensions.Codecs)
	b.generic.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	b.generic.MergedResourceConfig = apiextensions.DefaultAPIResourceConfigSource()
	b.generic.EnableProfiling = false
	b.generic.EnableMetrics = false // see metrics
	b.generic.MaxRequestBodyBytes, b.generic.JSONPatchMaxCopyBytes = maxBody, maxCopied
	b.generic.ShutdownWatchTerminationGracePeriod = watchGrace
	for _, step := range []func() error{b.serving, b.clients, b.access, b.storage, b.admission} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.openAPI(openapinamer.NewDefinitionNamer(apiextensions.Scheme, scheme))

	extensions, err := b.extensionsServer()
	if err != nil {
		return nil, err
	}
	extensions.GenericAPIServer.ShutdownTimeout = shutdownTime
	builtin := &groups{
		scheme: scheme, codecs: codecs, storage: *b.etcd, transformers: b.generic.ResourceTransformers,
		reviews: reviews(b.generic.Authorization.Authorizer), fitting: b.fitting,
	}
	if err := builtin.install(extensions.GenericAPIServer); err != nil {
		return nil, err
	}
	paths := extensions.GenericAPIServer.Handler.NonGoRestfulMux
	routes.OpenAPI{Config: b.openAPIV2}.InstallV2(extensions.GenericAPIServer.Handler.GoRestfulContainer, paths)
	b.metrics(paths)
	routes.Profiling{}.Install(paths)
	for path, h := range b.Handlers {
		paths.HandlePrefix(path, h)
	}
	s := &Server{
		generic: extensions.GenericAPIServer, front: b.front(extensions.GenericAPIServer.Handler), inside: b.inside, loopback: b.generic.LoopbackClientConfig,
		ready: make(chan struct{}), failed: make(chan error, 1),
	}
	return s, b.hooks(s, extensions)
}

func (b *builder) serving() error {
	loopback, key, err := loopbackCertificate()
	if err != nil {
		return err
	}
	own, err := dynamiccertificates.NewStaticCertKeyContent("loopback", loopback, key)
	if err != nil {
		return err
	}
	b.loopback, b.clientCAs, b.inside = loopback, &clientCAs{pem: b.ClientCAs, now: b.Now}, newInside(b.Listener.Addr())
	b.generic.SecureServing = &genericapiserver.SecureServingInfo{Listener: b.inside, Cert: own, MinTLSVersion: tls.VersionTLS13}
	b.generic.ExternalAddress = b.Listener.Addr().String()
	b.generic.PublicAddress = net.IPv4(127, 0, 0, 1)
	b.authenticator = x509.NewDynamic(b.clientCAs.VerifyOptions, x509.CommonNameUserConversion)
	b.generic.Authentication.Authenticator = union.New(
		b.authenticator,
		anonymous.NewAuthenticator(anonymousPaths()),
	)
	return nil
}

func (b *builder) clients() error {
	c, err := b.generic.SecureServing.NewLoopbackClientConfig(uuid.NewString(), b.loopback)
	if err != nil {
		return err
	}
	c.QPS, c.Burst = -1, -1 // the server does not limit itself
	c.Dial = b.inside.Dial
	c.DisableCompression = true // within the process it costs time, and 140 KB for each watch
	b.generic.LoopbackClientConfig, b.generic.ClientConfig = c, c
	if b.client, err = kubernetes.NewForConfig(c); err != nil {
		return err
	}
	if b.dynamic, err = dynamic.NewForConfig(c); err != nil {
		return err
	}
	b.informers = informers.NewSharedInformerFactoryWithOptions(b.client, 0, informers.WithTransform(reconcile.WithoutManagedFields))
	b.generic.SharedInformerFactory = b.informers
	return nil
}

// access allows everything to system:masters and the health paths to everyone.
func (b *builder) access() error {
	health, err := path.NewAuthorizer(healthPaths)
	if err != nil {
		return err
	}
	b.generic.Authorization.Authorizer, err = authorizerunion.New(
		authorizerunion.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(masters)},
		authorizerunion.NamedAuthorizer{AuthorizerName: "health", Authorizer: health},
	)
	return err
}

func (b *builder) storage() error {
	sc := storagebackend.NewDefaultConfig(StoragePrefix, apiextensions.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion))
	sc.Transport.ServerList = []string{b.EtcdEndpoint}
	sc.EventsHistoryWindow = storagebackend.DefaultEventsHistoryWindow
	b.etcd = genericoptions.NewEtcdOptions(sc)
	// Without the watch cache 10,000 devices take 150 MB less; kine answers
	// lists and watches from SQLite.
	b.etcd.EnableWatchCache = false
	// Each kind's objects would be counted every minute, for a metric of upstream's.
	b.etcd.StorageConfig.CountMetricPollPeriod = 0
	b.etcd.EncryptionProviderConfigFilepath = b.EncryptionConfigFile
	err := b.etcd.ApplyTo(&b.generic.Config)
	b.generic.RESTOptionsGetter = b.fitting(b.generic.RESTOptionsGetter)
	return err
}

func (b *builder) fitting(o generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return fitting{o, b.Full}
}

func (b *builder) admission() error {
	o := genericoptions.NewAdmissionOptions()
	o.Plugins.Register(guardName, guardFactory(b.crds))
	o.Plugins.Register(reviewName, reviewFactory(b.Reviews, b.client))
	o.Plugins.Register(objectSizeName, newObjectSize)
	o.Plugins.Register(definitionsName, definitionsFactory(b.Sizes))
	o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, guardName, objectSizeName, definitionsName, reviewName)
	// Policies and webhooks need kinds that this server does not serve.
	o.DisablePlugins = []string{"MutatingAdmissionPolicy", "ValidatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"}
	return o.ApplyTo(&b.generic.Config, b.informers, b.client, b.dynamic, utilfeature.DefaultFeatureGate, b.generic.EffectiveVersion)
}

// openAPI turns on version 3 for everything. In version 2 there are the built-in
// kinds alone: one document with all definitions would cost memory with each of
// them, but without any kubectl cannot read a List, does not say which kind of a
// file is not served, and before 1.27 applies nothing.
func (b *builder) openAPI(namer *openapinamer.DefinitionNamer) {
	definitions := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := openapi.GetOpenAPIDefinitions(ref)
		maps.Copy(all, apiextensionsopenapi.GetOpenAPIDefinitions(ref))
		return all
	}
	b.generic.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	b.generic.OpenAPIV3Config.Info.Title = "fleet"
	b.openAPIV2 = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	b.openAPIV2.Info.Title, b.openAPIV2.Info.Version = "fleet", compatibility.DefaultBuildEffectiveVersion().BinaryVersion().String()
}

func (b *builder) extensionsServer() (*apiextensions.CustomResourceDefinitions, error) {
	c := &apiextensions.Config{
		GenericConfig: b.generic,
		ExtraConfig: apiextensions.ExtraConfig{
			CRDRESTOptionsGetter: b.fitting(apiextensionsoptions.NewCRDRESTOptionsGetter(*b.etcd, b.generic.ResourceTransformers, b.generic.StorageObjectCountTracker)),
			MasterCount:          1,
			ServiceResolver:      noServices{},
			AuthResolverWrapper:  noWebhooks,
		},
	}
	complete := c.Complete()
	// Complete turns it off because upstream serves discovery from the aggregator.
	complete.GenericConfig.EnableDiscovery = true
	return complete.New(genericapiserver.NewEmptyDelegate())
}

// metrics serves the metrics of Config.Metrics and of the API server in one
// document.
func (b *builder) metrics(m *mux.PathRecorderMux) {
	// Installing into a mux that nobody asks is upstream's only way to register
	// the API server's metrics.
	routes.DefaultMetrics{}.Install(mux.NewPathRecorderMux("metrics"))
	all := prometheus.Gatherers{legacyregistry.DefaultGatherer, b.Metrics}
	m.Handle("/metrics", promhttp.HandlerFor(all, promhttp.HandlerOpts{}))
}

// hooks starts, once the server listens, what makes it complete.
func (b *builder) hooks(s *Server, extensions *apiextensions.CustomResourceDefinitions) error {
	crds := extensions.Informers.Apiextensions().V1().CustomResourceDefinitions()
	if err := crds.Informer().SetTransform(reconcile.WithoutManagedFields); err != nil {
		return err
	}
	publisher := &groupPublisher{manager: s.generic.DiscoveryGroupManager, lister: crds.Lister()}
	if _, err := crds.Informer().AddEventHandler(reconcile.Guarded(b.Queues.Loop("groups", b.Logger), publisher.handler())); err != nil {
		return err
	}
	namespaces, err := newNamespaceController(b.client, b.dynamic, b.informers.Core().V1().Namespaces(), b.Queues, b.Logger)
	if err != nil {
		return err
	}
	garbage, err := b.garbage(crds)
	if err != nil {
		return err
	}
	extensionsClient, err := apiextensionsclient.NewForConfig(b.generic.LoopbackClientConfig)
	if err != nil {
		return err
	}
	boot := &bootstrap{crds: b.crds, extensions: extensionsClient, client: b.client}
	return errors.Join(
		s.generic.AddPostStartHook("fleet-informers", func(ctx genericapiserver.PostStartHookContext) error {
			b.informers.Start(ctx.Done())
			go namespaces.run(ctx)
			go garbage(ctx)
			return nil
		}),
		// Upstream publishes custom resources in version 3 only where version 2 is on.
		s.generic.AddPostStartHook("fleet-openapi-v3", func(ctx genericapiserver.PostStartHookContext) error {
			go openapiv3.NewController(crds).Run(s.generic.OpenAPIV3VersionedService, ctx.Done())
			return nil
		}),
		// In a goroutine, because an error that a hook returns ends the process.
		s.generic.AddPostStartHook("fleet-bootstrap", func(ctx genericapiserver.PostStartHookContext) error {
			go s.bootstrap(ctx, boot)
			return nil
		}),
		s.generic.AddReadyzChecks(healthz.NamedCheck("fleet-bootstrap", func(*http.Request) error {
			select {
			case <-s.ready:
				return nil
			default:
				return errors.New("the server's own definitions are not served yet")
			}
		}), healthz.NamedCheck("disk", func(*http.Request) error { return b.Full() })),
	)
}

func (s *Server) bootstrap(ctx context.Context, b *bootstrap) {
	if err := b.run(ctx); err != nil {
		s.failed <- err
		return
	}
	close(s.ready)
}

func anonymousPaths() []apiserver.AnonymousAuthCondition {
	conditions := make([]apiserver.AnonymousAuthCondition, len(healthPaths))
	for i, p := range healthPaths {
		conditions[i] = apiserver.AnonymousAuthCondition{Path: p}
	}
	return conditions
}
