// Package deployment looks after the Deployment objects themselves: it puts
// the finalizer on, shows in condition Accepted whether the score may be sent,
// and lets a deleted object go once its keys have left the bus.
package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/controllers/verdicts"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	fieldManager = "fleet-acceptance"
	// withdrawTimeout bounds how long a deletion waits for the bus. After it the
	// object goes anyway: the removal is in the API store, and the next
	// comparison sweeps the keys.
	withdrawTimeout = 10 * time.Second
)

// Withdrawer takes a Deployment off every device.
type Withdrawer interface {
	// Withdraw returns when the keys are gone from the bus, or when ctx ends.
	Withdraw(ctx context.Context, ref wire.DeploymentRef) error
}

// Controller reconciles Deployments.
type Controller struct {
	Client      *client.Client
	Deployments cache.SharedIndexInformer
	Namespaces  cache.SharedIndexInformer
	Secrets     cache.SharedIndexInformer
	ConfigMaps  cache.SharedIndexInformer
	Verdicts    *verdicts.Book
	Withdrawer  Withdrawer
	Recorder    record.EventRecorder
	Metrics     *reconcile.Metrics
	Logger      *slog.Logger
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	queue := reconcile.NewQueue[string]("deployment", c.Metrics)
	defer queue.ShutDown()
	synced, err := c.watch(queue)
	if err != nil {
		return fmt.Errorf("watching Deployments: %w", err)
	}
	// A Secret, a ConfigMap or a namespace that is not listed yet would make a verdict that is not true.
	if !cache.WaitFor(ctx, "", synced...) {
		return fmt.Errorf("listing what decides about Deployments: %w", ctx.Err())
	}
	reconcile.Work(ctx, queue, c.Logger, func(ctx context.Context, key string) (time.Duration, error) {
		return 0, c.Reconcile(ctx, key)
	})
	return nil
}

// watch enqueues what changes, and says when every list is complete.
func (c *Controller) watch(queue *reconcile.Queue[string]) (synced []cache.DoneChecker, err error) {
	add := func(keys ...string) {
		for _, key := range keys {
			queue.Add(key)
		}
	}
	guard := c.Metrics.Loop("deployment-changes", c.Logger)
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		c.Deployments: reconcile.Changes(differs, func(key string) { add(key) }),
		// A namespace's label decides about the privilege of what is in it.
		c.Namespaces: reconcile.Changes(verdicts.NamespaceDiffers, func(namespace string) { add(c.Verdicts.In(namespace)...) }),
		// A score may wait for a Secret or a ConfigMap.
		c.Secrets: reconcile.Changes(verdicts.SecretDiffers, func(secret string) { add(c.Verdicts.Needing(secret)...) }),
		c.ConfigMaps: reconcile.Changes(verdicts.ConfigMapDiffers, func(key string) {
			add(c.Verdicts.Needing(verdicts.KeyOfConfigMap(key))...)
		}),
	} {
		h, err := informer.AddEventHandler(reconcile.Guarded(guard, handler))
		if err != nil {
			return nil, err
		}
		synced = append(synced, h.HasSyncedChecker())
	}
	return synced, nil
}

// differs reports whether there is anything to do after an update. Of the status it
// is what this controller shows: somebody may have changed that.
func differs(old, now *v1alpha1.Deployment) bool {
	return verdicts.DeploymentDiffers(old, now) || !slices.Equal(old.Finalizers, now.Finalizers) || !equality.Semantic.DeepEqual(shown(old), shown(now))
}

func shown(d *v1alpha1.Deployment) *metav1.Condition {
	return meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeploymentAccepted)
}

// Reconcile brings one Deployment, "<namespace>/<name>", up to date.
func (c *Controller) Reconcile(ctx context.Context, key string) error {
	o, exists, err := c.Deployments.GetStore().GetByKey(key)
	if err != nil || !exists {
		return err
	}
	d := o.(*v1alpha1.Deployment).DeepCopy()
	d.ManagedFields = nil // the API knows them better than the informer
	has := slices.Contains(d.Finalizers, v1alpha1.DeploymentFinalizer)
	switch {
	case !d.DeletionTimestamp.IsZero() && has:
		return c.release(ctx, d)
	case !d.DeletionTimestamp.IsZero():
		return nil
	case !has:
		return c.addFinalizer(ctx, d)
	}
	return c.accept(ctx, d)
}

func (c *Controller) addFinalizer(ctx context.Context, d *v1alpha1.Deployment) error {
	d.Finalizers = append(d.Finalizers, v1alpha1.DeploymentFinalizer)
	c.Metrics.Wrote("Deployment", "finalizer")
	_, err := c.Client.Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{FieldManager: fieldManager})
	return client.IgnoreNotFound(err)
}

// release removes the desired-state keys, then the finalizer.
func (c *Controller) release(ctx context.Context, d *v1alpha1.Deployment) error {
	bounded, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	err := c.Withdrawer.Withdraw(bounded, wire.DeploymentRef{Namespace: d.Namespace, Name: d.Name})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if err != nil {
		c.Logger.Warn("deleting a Deployment whose keys are still on the bus", "deployment", d.Namespace+"/"+d.Name, "error", err)
	}
	d.Finalizers = slices.DeleteFunc(d.Finalizers, func(f string) bool { return f == v1alpha1.DeploymentFinalizer })
	c.Metrics.Wrote("Deployment", "release")
	_, err = c.Client.Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{FieldManager: fieldManager})
	return client.IgnoreNotFound(err)
}

// accept shows the verdict.
func (c *Controller) accept(ctx context.Context, d *v1alpha1.Deployment) error {
	v := c.Verdicts.Of(d)
	condition := metav1.Condition{
		Type: v1alpha1.DeploymentAccepted, Status: metav1.ConditionFalse,
		Reason: v.Reason, Message: v.Message, ObservedGeneration: d.Generation,
	}
	if v.Accepted {
		condition.Status = metav1.ConditionTrue
	}
	if !meta.SetStatusCondition(&d.Status.Conditions, condition) {
		return nil
	}
	status := map[string]any{"conditions": []metav1.Condition{*meta.FindStatusCondition(d.Status.Conditions, condition.Type)}}
	c.Metrics.Wrote("Deployment", "verdict")
	_, err := client.Apply(ctx, c.Client.Deployments(d.Namespace), fieldManager, "Deployment", d.Name, map[string]any{"status": status}, "status")
	if err == nil {
		events.Record(c.Recorder, d, events.OfVerdict(v.Accepted, v.Reason, v.Message))
	}
	return client.IgnoreNotFound(err)
}
