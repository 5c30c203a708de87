package apiserver

import (
	"maps"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	listers "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/client-go/tools/cache"
)

// groupPublisher lists the groups of custom resources in the unaggregated
// /apis document. Kubernetes leaves that to kube-aggregator, which is not here.
type groupPublisher struct {
	manager discovery.GroupManager
	lister  listers.CustomResourceDefinitionLister

	mu        sync.Mutex // guards published
	published sets.Set[string]
}

func (p *groupPublisher) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { p.sync() },
		UpdateFunc: func(any, any) { p.sync() },
		DeleteFunc: func(any) { p.sync() },
	}
}

func (p *groupPublisher) sync() {
	crds, err := p.lister.List(labels.Everything())
	if err != nil {
		return // the lister reads memory and cannot fail
	}
	groups := servedGroups(crds)
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, versions := range groups {
		p.manager.AddGroup(apiGroup(name, versions))
	}
	for name := range p.published {
		if _, ok := groups[name]; !ok {
			p.manager.RemoveGroup(name)
		}
	}
	p.published = sets.KeySet(groups)
}

func servedGroups(crds []*apiextensionsv1.CustomResourceDefinition) map[string]sets.Set[string] {
	groups := map[string]sets.Set[string]{}
	for _, crd := range crds {
		if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if !v.Served {
				continue
			}
			if groups[crd.Spec.Group] == nil {
				groups[crd.Spec.Group] = sets.New[string]()
			}
			groups[crd.Spec.Group].Insert(v.Name)
		}
	}
	return groups
}

func apiGroup(name string, versions sets.Set[string]) metav1.APIGroup {
	g := metav1.APIGroup{Name: name}
	sorted := slices.SortedFunc(maps.Keys(versions), func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
	for _, v := range sorted {
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: name + "/" + v, Version: v})
	}
	g.PreferredVersion = g.Versions[0]
	return g
}
