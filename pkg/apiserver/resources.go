package apiserver

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/value"
)

// eventTTL is how long events are kept, as in Kubernetes.
const eventTTL = time.Hour

// resource is one built-in kind.
type resource struct {
	gv         schema.GroupVersion
	plural     string
	singular   string
	short      []string
	namespaced bool
	obj, list  runtime.Object
	columns    []column
	validName  validation.ValidateNameFunc
	// prepare fills in defaults; old is nil on create.
	prepare func(obj, old runtime.Object)
	// validate checks what the schema cannot; old is nil on update of a new object.
	validate validateFunc
	// fields are those that a field selector may use.
	fields func(runtime.Object) fields.Set
	// ttl is how long an object is kept, zero for ever.
	ttl time.Duration
}

func resources() []resource {
	core, coordination := corev1.SchemeGroupVersion, coordinationv1.SchemeGroupVersion
	return []resource{
		{
			gv: core, plural: "namespaces", singular: "namespace", short: []string{"ns"},
			obj: &corev1.Namespace{}, list: &corev1.NamespaceList{}, columns: namespaceColumns,
			validName: validation.ValidateNamespaceName, prepare: prepareNamespace, fields: namespaceFields,
		},
		{
			gv: core, plural: "secrets", singular: "secret", namespaced: true,
			obj: &corev1.Secret{}, list: &corev1.SecretList{}, columns: secretColumns,
			prepare: prepareSecret, validate: validateSecret, fields: secretFields,
		},
		{
			gv: core, plural: "configmaps", singular: "configmap", short: []string{"cm"}, namespaced: true,
			obj: &corev1.ConfigMap{}, list: &corev1.ConfigMapList{}, columns: configMapColumns,
			validate: validateConfigMap,
		},
		{
			gv: core, plural: "events", singular: "event", short: []string{"ev"}, namespaced: true,
			obj: &corev1.Event{}, list: &corev1.EventList{}, columns: eventColumns,
			validate: validateEvent, fields: eventFields, ttl: eventTTL,
		},
		{
			gv: coordination, plural: "leases", singular: "lease", namespaced: true,
			obj: &coordinationv1.Lease{}, list: &coordinationv1.LeaseList{}, columns: leaseColumns,
			validate: validateLease,
		},
		{ // no other kind of the group: a Deployment of apps/v1 would stand before ours in every kubectl
			gv: appsv1.SchemeGroupVersion, plural: "controllerrevisions", singular: "controllerrevision", namespaced: true,
			obj: &appsv1.ControllerRevision{}, list: &appsv1.ControllerRevisionList{}, columns: revisionColumns,
			validate: validateRevision,
		},
	}
}

// groups builds the API groups of the built-in kinds.
type groups struct {
	scheme       *runtime.Scheme
	codecs       serializer.CodecFactory
	storage      genericoptions.EtcdOptions
	transformers value.ResourceTransformers
	reviews      []review
	fitting      func(generic.RESTOptionsGetter) generic.RESTOptionsGetter
}

// install adds every built-in kind to s.
func (g *groups) install(s *genericapiserver.GenericAPIServer) error {
	byGroup := map[schema.GroupVersion]map[string]rest.Storage{}
	var order []schema.GroupVersion
	of := func(gv schema.GroupVersion) map[string]rest.Storage {
		if byGroup[gv] == nil {
			byGroup[gv] = map[string]rest.Storage{}
			order = append(order, gv)
		}
		return byGroup[gv]
	}
	for _, r := range resources() {
		if err := g.addStorage(of(r.gv), r); err != nil {
			return fmt.Errorf("adding %s: %w", r.plural, err)
		}
	}
	of(eventsv1.SchemeGroupVersion)["events"] = &eventsREST{core: of(corev1.SchemeGroupVersion)["events"].(*store)}
	for _, r := range g.reviews {
		of(r.gv)[r.plural] = reviewREST{r}
	}
	for _, gv := range order {
		if err := g.installGroup(s, gv, byGroup[gv]); err != nil {
			return fmt.Errorf("installing API group %s: %w", gv, err)
		}
	}
	return nil
}

func (g *groups) addStorage(to map[string]rest.Storage, r resource) error {
	store, err := newStore(g.scheme, g.restOptions(r.gv), r)
	if err != nil {
		return err
	}
	if r.plural != "namespaces" {
		to[r.plural] = store
		return nil
	}
	to["namespaces"] = newNamespaceREST(store)
	to["namespaces/finalize"] = &finalizeREST{store: store.Store}
	return nil
}

func (g *groups) installGroup(s *genericapiserver.GenericAPIServer, gv schema.GroupVersion, storage map[string]rest.Storage) error {
	info := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, g.scheme, runtime.NewParameterCodec(g.scheme), g.codecs)
	info.PrioritizedVersions = []schema.GroupVersion{gv}
	info.VersionedResourcesStorageMap[gv.Version] = storage
	if gv.Group == "" {
		return s.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &info)
	}
	return s.InstallAPIGroup(&info)
}

// restOptions returns the storage options of one group: JSON, decoded into
// the version that doubles as the internal one.
func (g *groups) restOptions(gv schema.GroupVersion) generic.RESTOptionsGetter {
	o := g.storage
	o.SkipHealthEndpoints = true
	info, _ := runtime.SerializerInfoForMediaType(g.codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	o.StorageConfig.Codec = g.codecs.CodecForVersions(info.Serializer, g.codecs.UniversalDeserializer(), gv, runtime.InternalGroupVersioner)
	return g.fitting(o.CreateRESTOptionsGetter(&genericoptions.SimpleStorageFactory{StorageConfig: o.StorageConfig}, g.transformers))
}
