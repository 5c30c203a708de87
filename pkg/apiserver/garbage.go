package apiserver

import (
	"context"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apiserver/collector"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// garbage returns what collects garbage of all kinds: those of now, and those that
// are defined later.
func (b *builder) garbage(crds extensionsinformers.CustomResourceDefinitionInformer) (run func(context.Context), err error) {
	client, err := metadata.NewForConfig(b.generic.LoopbackClientConfig)
	if err != nil {
		return nil, err
	}
	c := collector.New(client, b.Queues, b.Logger)
	sync := func() {
		if all, err := crds.Lister().List(labels.Everything()); err == nil { // the lister reads memory and cannot fail
			c.SetKinds(collectedKinds(all))
		}
	}
	added, err := crds.Informer().AddEventHandler(reconcile.Guarded(b.Queues.Loop("garbage-kinds", b.Logger), cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { sync() }, UpdateFunc: func(any, any) { sync() }, DeleteFunc: func(any) { sync() },
	}))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		if b.hasStarted(ctx) && cache.WaitForCacheSync(ctx.Done(), added.HasSynced) {
			c.Run(ctx)
			return
		}
		c.Stop()
	}, nil
}

// hasStarted waits until the whole process has started, and reports whether it has.
func (b *builder) hasStarted(ctx context.Context) bool {
	if b.Started == nil {
		return true
	}
	select {
	case <-b.Started:
		return true
	case <-ctx.Done():
		return false
	}
}

// collectedKinds are all kinds but events, which go by themselves.
func collectedKinds(crds []*apiextensionsv1.CustomResourceDefinition) []collector.Kind {
	kinds := []collector.Kind{{
		GroupVersionResource: apiextensionsv1.SchemeGroupVersion.WithResource(definitionsResource), Kind: "CustomResourceDefinition",
	}}
	for _, r := range resources() {
		if r.gv != corev1.SchemeGroupVersion || r.plural != "events" {
			kinds = append(kinds, collector.Kind{GroupVersionResource: r.gv.WithResource(r.plural), Kind: reflect.TypeOf(r.obj).Elem().Name(), Namespaced: r.namespaced})
		}
	}
	for _, crd := range crds {
		if k, ok := customKind(crd); ok {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// customKind is what a definition has served.
func customKind(crd *apiextensionsv1.CustomResourceDefinition) (collector.Kind, bool) {
	i := slices.IndexFunc(crd.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool { return v.Served })
	if i < 0 || !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		return collector.Kind{}, false
	}
	k := collector.Kind{Kind: crd.Spec.Names.Kind, Namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped}
	k.Group, k.Version, k.Resource = crd.Spec.Group, crd.Spec.Versions[i].Name, crd.Spec.Names.Plural
	return k, true
}
