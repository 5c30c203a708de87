package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// errNotEmpty: objects with finalizers are still on their way out.
var errNotEmpty = fmt.Errorf("the namespace is not empty yet: %w", reconcile.ErrLater)

// namespaceController empties terminating namespaces and lets them go.
type namespaceController struct {
	client  kubernetes.Interface
	dynamic dynamic.Interface
	log     *slog.Logger
	queue   *reconcile.Queue[string]
	metrics *reconcile.Metrics
}

func newNamespaceController(client kubernetes.Interface, dyn dynamic.Interface, informer coreinformers.NamespaceInformer, metrics *reconcile.Metrics, log *slog.Logger) (*namespaceController, error) {
	c := &namespaceController{client: client, dynamic: dyn, log: log, queue: reconcile.NewQueue[string]("namespace", metrics), metrics: metrics}
	enqueue := func(o any) {
		if ns, ok := o.(*corev1.Namespace); ok && !ns.DeletionTimestamp.IsZero() {
			c.queue.Add(ns.Name)
		}
	}
	_, err := informer.Informer().AddEventHandler(reconcile.Guarded(metrics.Loop("namespace-changes", log), cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, o any) { enqueue(o) },
	}))
	return c, err
}

func (c *namespaceController) run(ctx context.Context) {
	reconcile.Work(ctx, c.queue, c.log, func(ctx context.Context, name string) (time.Duration, error) { return 0, c.empty(ctx, name) })
}

// empty deletes everything in the namespace, then the namespace itself.
func (c *namespaceController) empty(ctx context.Context, namespace string) error {
	lists, err := c.client.Discovery().ServerPreferredNamespacedResources()
	if err != nil {
		return fmt.Errorf("discovering resources: %w", err)
	}
	remaining := 0
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "deletecollection"}}, lists) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return err
		}
		for _, r := range list.APIResources {
			n, err := c.deleteAll(ctx, gv.WithResource(r.Name), namespace)
			if err != nil {
				return fmt.Errorf("deleting %s: %w", r.Name, err)
			}
			remaining += n
		}
	}
	if remaining > 0 {
		return errNotEmpty
	}
	return c.finalize(ctx, namespace)
}

// deleteAll returns how many objects are left, at least.
func (c *namespaceController) deleteAll(ctx context.Context, gvr schema.GroupVersionResource, namespace string) (int, error) {
	r := c.dynamic.Resource(gvr).Namespace(namespace)
	c.metrics.Wrote("any", "namespace")
	if err := r.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return 0, err
	}
	left, err := r.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, err
	}
	return len(left.Items), nil
}

func (c *namespaceController) finalize(ctx context.Context, name string) error {
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	ns.Spec.Finalizers = nil
	c.metrics.Wrote("Namespace", "release")
	_, err = c.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
