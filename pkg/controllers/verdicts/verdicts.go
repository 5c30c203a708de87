// Package verdicts evaluates a Deployment once for each change of what decides about
// it, and keeps the verdict: the assigner acts on it, and the deployment controller
// shows it. Both import the package.
package verdicts

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Config is what decides about Deployments: caches of informers.
type Config struct {
	Deployments                     cache.Indexer
	Namespaces, Secrets, ConfigMaps cache.Store
	Digests                         acceptance.Digests
	Rules                           acceptance.Rules
}

// Book holds the verdict about each Deployment.
type Book struct {
	Config

	evaluations prometheus.Counter

	mu sync.Mutex // guards what follows, and is held while a Deployment is evaluated
	// entries are by the key of the Deployment, "<namespace>/<name>".
	entries map[string]entry
	// needing leads from the key of a Secret or ConfigMap, see KeyOfConfigMap, to those of
	// the Deployments that need it.
	needing map[string]map[string]struct{}
}

type entry struct {
	inputs  inputs
	verdict *acceptance.Verdict
}

// inputs tell whether a verdict is of now.
type inputs struct {
	uid        types.UID
	generation int64
	// privilege is the label of the namespace.
	privilege string
	// secrets are the versions of the Secrets and ConfigMaps that the score needs.
	secrets string
}

// New returns an empty book.
func New(c Config) *Book {
	return &Book{Config: c, entries: map[string]entry{}, needing: map[string]map[string]struct{}{}, evaluations: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fleet_evaluations_total", Help: "Evaluations of Deployments: whether their score may be sent.",
	})}
}

// Collectors are the metrics of the book.
func (b *Book) Collectors() []prometheus.Collector { return []prometheus.Collector{b.evaluations} }

// Of returns the verdict about a Deployment as its object is now. The caller must
// not change it.
func (b *Book) Of(d *v1alpha1.Deployment) *acceptance.Verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := keyOf(d.Namespace, d.Name)
	namespace := b.namespaceLabels(d.Namespace)
	now := inputs{uid: d.UID, generation: d.Generation, privilege: namespace[v1alpha1.LabelPrivilege]}
	if e, has := b.entries[key]; has {
		now.secrets = b.versions(d.Namespace, e.verdict.Secrets)
		if e.inputs == now {
			return e.verdict
		}
	}
	verdict := b.evaluate(d, namespace, &now)
	b.forget(key)
	// The object may be gone meanwhile, and Forget have been called already.
	if _, exists, err := b.Deployments.GetByKey(key); exists && err == nil {
		b.keep(key, d.Namespace, entry{now, &verdict})
	}
	return &verdict
}

// evaluate notes the versions of Secrets and ConfigMaps before their content is read: a
// change in between makes another evaluation rather than a verdict that nothing corrects.
// Of all of them the first question is about.
func (b *Book) evaluate(d *v1alpha1.Deployment, namespaceLabels map[string]string, now *inputs) acceptance.Verdict {
	b.evaluations.Inc()
	read := false
	verdict := b.Rules.Evaluate(d, namespaceLabels, digests(func(namespace string, names []string) (string, error) {
		if !read {
			read, now.secrets = true, b.versions(namespace, names)
		}
		return b.Digests.Digest(namespace, names)
	}))
	if !read { // whatever they hold
		now.secrets = b.versions(d.Namespace, verdict.Secrets)
	}
	return verdict
}

// Template returns the template of a score that a Deployment had, nil for one that is the same on
// each device, and an error for one that is not valid now. What it is rendered to has to be
// allowed now.
func (b *Book) Template(d *v1alpha1.Deployment, body []byte) (*acceptance.Template, error) {
	return acceptance.TemplateOf(body, d.Namespace, b.namespaceLabels(d.Namespace))
}

// digests is a function as acceptance.Digests.
type digests func(namespace string, names []string) (string, error)

func (f digests) Digest(namespace string, names []string) (string, error) { return f(namespace, names) }

// Forget drops the verdict about a Deployment that is gone.
func (b *Book) Forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(key)
}

// In returns the keys of the Deployments in a namespace. It wants Deployments to have
// cache.NamespaceIndex.
func (b *Book) In(namespace string) (keys []string) {
	_ = cache.ListAllByNamespace(b.Deployments, namespace, labels.Everything(), func(o any) { // fails never: every object has a namespace
		keys = append(keys, keyOf(namespace, o.(*v1alpha1.Deployment).Name))
	})
	return keys
}

// Needing returns the keys of the Deployments that need a Secret, or a ConfigMap by its
// KeyOfConfigMap, also of one that does not exist.
func (b *Book) Needing(object string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.needing[object]))
}

// KeyOfConfigMap turns the key of a ConfigMap into one that no Secret has.
func KeyOfConfigMap(key string) string {
	namespace, name, _ := strings.Cut(key, "/")
	return keyOf(namespace, wire.ConfigMapName(name))
}

func (b *Book) keep(key, namespace string, e entry) {
	b.entries[key] = e
	for _, name := range e.verdict.Secrets {
		secret := keyOf(namespace, name)
		if b.needing[secret] == nil {
			b.needing[secret] = map[string]struct{}{}
		}
		b.needing[secret][key] = struct{}{}
	}
}

func (b *Book) forget(key string) {
	e, has := b.entries[key]
	if !has {
		return
	}
	delete(b.entries, key)
	namespace, _, _ := strings.Cut(key, "/")
	for _, name := range e.verdict.Secrets {
		secret := keyOf(namespace, name)
		delete(b.needing[secret], key)
		if len(b.needing[secret]) == 0 {
			delete(b.needing, secret)
		}
	}
}

func (b *Book) namespaceLabels(name string) map[string]string {
	o, exists, err := b.Namespaces.GetByKey(name)
	if err != nil || !exists {
		return nil
	}
	return o.(*corev1.Namespace).Labels
}

// versions tells one state of some Secrets and ConfigMaps from every other.
func (b *Book) versions(namespace string, names []string) string {
	var versions strings.Builder
	for _, name := range names {
		store, is := b.Secrets, false
		if name, is = wire.ParseConfigMapName(name); is {
			store = b.ConfigMaps
		}
		if o, exists, err := store.GetByKey(keyOf(namespace, name)); exists && err == nil {
			m := o.(metav1.Object)
			versions.WriteString(string(m.GetUID()) + "@" + m.GetResourceVersion())
		}
		versions.WriteByte('\n')
	}
	return versions.String()
}

func keyOf(namespace, name string) string { return namespace + "/" + name }
