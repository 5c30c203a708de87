// Package enrollment looks after EnrollmentTokens and EnrollmentRequests: it
// shows whether a token can be used and removes it some time after its end,
// and it binds the Device of a request that an operator approved. Its Service decides
// about what devices ask at the door of package deviceapi/enroll.
package enrollment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const fieldManager = "fleet-enrollment-controller"

// Kinds of the objects that are written, for the metric.
const (
	deviceKind  = "Device"
	requestKind = "EnrollmentRequest"
	tokenKind   = "EnrollmentToken"
)

// countingInterval is how long uses of a token are collected before its status is
// written.
const countingInterval = time.Second

// How long objects stay that nobody needs any more: long enough to find out
// why a device was refused.
const (
	expiredTokenRetention = 7 * 24 * time.Hour
	answeredRetention     = 7 * 24 * time.Hour
	// So long a name is closed to others after a denial, and so long somebody who
	// only asked for it keeps it from others.
	deniedRetention  = 30 * 24 * time.Hour
	pendingRetention = 30 * 24 * time.Hour
)

// Config is what the controller needs. The informers are started by the caller.
type Config struct {
	Client   *client.Client
	Tokens   cache.SharedIndexInformer
	Requests cache.SharedIndexInformer
	Devices  cache.SharedIndexInformer
	// Service binds the Devices of approved requests.
	Service  *Service
	Recorder record.EventRecorder
	Metrics  *reconcile.Metrics
	Logger   *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Controller reconciles EnrollmentTokens and EnrollmentRequests.
type Controller struct {
	Config
	queue *reconcile.Queue[item]
}

// item is work to do: an object that changed, or a stranger.
type item struct {
	kind itemKind
	name string
	// fingerprint is that of a stranger's key, expires the end of its certificate
	// in Unix seconds.
	fingerprint string
	expires     int64
}

// LogValue implements slog.LogValuer.
func (i item) LogValue() slog.Value { return slog.StringValue(i.name) }

type itemKind int

const (
	tokenItem itemKind = iota
	requestItem
	strangerItem
)

// New returns a controller that does not run yet.
func New(c Config) *Controller {
	controller := &Controller{
		Config: c,
		queue:  reconcile.NewQueue[item]("enrollment", c.Metrics),
	}
	c.Service.uses.changed = func(token string) {
		controller.queue.AddAfter(item{kind: tokenItem, name: token}, countingInterval)
	}
	return controller
}

// Stranger records the request of a device that has a certificate of this
// fleet, and whose key the API store does not know: a backup was restored that
// is older than the certificate. It does not block.
func (c *Controller) Stranger(device, fingerprint string, expires time.Time) {
	c.queue.Add(item{strangerItem, device, fingerprint, expires.Unix()})
}

// Run works until ctx ends. It returns an error only when it cannot start.
func (c *Controller) Run(ctx context.Context) error {
	guard := c.Metrics.Loop("enrollment-changes", c.Logger)
	for kind, informer := range map[itemKind]cache.SharedIndexInformer{tokenItem: c.Tokens, requestItem: c.Requests} {
		changes := reconcile.Changes(func(_, _ any) bool { return true }, func(name string) { c.queue.Add(item{kind: kind, name: name}) })
		if _, err := informer.AddEventHandler(reconcile.Guarded(guard, changes)); err != nil {
			return fmt.Errorf("watching enrollment objects: %w", err)
		}
	}
	// What objects say of a token's uses counts once all of them are there.
	if !cache.WaitFor(ctx, "", c.Devices.HasSyncedChecker(), c.Requests.HasSyncedChecker()) {
		return nil
	}
	reconcile.Work(ctx, c.queue, c.Logger, c.reconcile)
	return nil
}

func (c *Controller) reconcile(ctx context.Context, i item) (again time.Duration, err error) {
	switch i.kind {
	case tokenItem:
		return c.reconcileToken(ctx, i.name)
	case requestItem:
		return c.reconcileRequest(ctx, i.name)
	default:
		return 0, c.record(ctx, i)
	}
}

func (c *Controller) reconcileToken(ctx context.Context, name string) (time.Duration, error) {
	o, exists, err := c.Tokens.GetStore().GetByKey(name)
	if err != nil {
		return 0, err
	}
	if !exists {
		c.Service.uses.forget(name)
		return 0, nil
	}
	t := o.(*v1alpha1.EnrollmentToken).DeepCopy()
	now := c.Now()
	if !now.Before(t.Expiry().Add(expiredTokenRetention)) {
		c.Logger.Info("removing an expired token", "token_id", name)
		c.Metrics.Wrote(tokenKind, "expired")
		return 0, client.IgnoreNotFound(c.Client.EnrollmentTokens().Delete(ctx, name, asSeen(t)))
	}
	uses, usedAt, err := c.Service.usesOf(t)
	if err != nil {
		return 0, err
	}
	if setTokenStatus(t, uses, usedAt, now) {
		c.Metrics.Wrote(tokenKind, "status")
		if _, err := c.Client.EnrollmentTokens().UpdateStatus(ctx, t, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
		if u := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.TokenUsable); u.Status == metav1.ConditionFalse {
			events.Record(c.Recorder, t, events.TokenUnusable(u.Reason, u.Message))
		}
	}
	if now.Before(t.Expiry()) {
		return t.Expiry().Sub(now), nil
	}
	return t.Expiry().Add(expiredTokenRetention).Sub(now), nil
}

func (c *Controller) reconcileRequest(ctx context.Context, name string) (time.Duration, error) {
	o, exists, err := c.Requests.GetStore().GetByKey(name)
	if err != nil || !exists {
		return 0, err
	}
	r := o.(*v1alpha1.EnrollmentRequest).DeepCopy()
	if setRequestStatus(r, c.Now()) {
		c.Metrics.Wrote(requestKind, "status")
		if r, err = c.Client.EnrollmentRequests().UpdateStatus(ctx, r, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
		shown := wire.ShowFingerprint(r.Spec.KeyFingerprint)
		switch {
		case r.IsDenied():
			c.Logger.Info("an operator denied a device", "device", r.Name, "fingerprint", r.Spec.KeyFingerprint)
			events.Record(c.Recorder, r, events.RequestDenied(shown))
		case !r.IsApproved():
			events.Record(c.Recorder, r, events.RequestAwaitsOperator(r.Name, shown))
		}
	}
	if r.IsApproved() {
		if granted, err := c.grant(ctx, r); granted || err != nil {
			return 0, err
		}
	}
	end := endOf(r)
	if !c.Now().Before(end) {
		return 0, c.remove(ctx, r)
	}
	return end.Sub(c.Now()), nil
}

// grant binds the Device of an approved request, which has done its part then:
// one that stayed would bind the key again when the Device has another. The cache
// may not know yet that an operator thought better of it.
func (c *Controller) grant(ctx context.Context, seen *v1alpha1.EnrollmentRequest) (granted bool, err error) {
	r, err := c.Client.EnrollmentRequests().Get(ctx, seen.Name, metav1.GetOptions{})
	if err != nil || r.UID != seen.UID || !r.IsApproved() {
		return false, client.IgnoreNotFound(err)
	}
	device, err := c.Service.Bind(ctx, r)
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok {
		events.Record(c.Recorder, r, events.RequestNotGranted(refusal.Message))
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("granting the request of %s: %w", r.Name, err)
	}
	events.Record(c.Recorder, device, events.DeviceApproved(wire.ShowFingerprint(r.Spec.KeyFingerprint)))
	return true, c.remove(ctx, r)
}

func (c *Controller) remove(ctx context.Context, r *v1alpha1.EnrollmentRequest) error {
	if err := c.Service.Settle(ctx, r.Spec.Token, r.Spec.TokenUse); err != nil {
		return err
	}
	c.Metrics.Wrote(requestKind, "over")
	return client.IgnoreNotFound(c.Client.EnrollmentRequests().Delete(ctx, r.Name, asSeen(r)))
}

// asSeen lets a deletion fail when somebody changed the object meanwhile.
func asSeen(o metav1.Object) metav1.DeleteOptions {
	uid, version := o.GetUID(), o.GetResourceVersion()
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
}

// record makes the request of a stranger.
func (c *Controller) record(ctx context.Context, i item) error {
	d, err := c.Client.Devices().Get(ctx, i.name, metav1.GetOptions{})
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	known := err == nil && d.Spec.Enrollment != nil
	switch {
	case known && d.HasKey(i.fingerprint):
		return nil // approved meanwhile
	case known && !isNewer(i, d):
		return nil // a key that the device had before
	}
	c.Metrics.Wrote(requestKind, "stranger")
	_, err = c.Client.EnrollmentRequests().Create(ctx, &v1alpha1.EnrollmentRequest{
		ObjectMeta: metav1.ObjectMeta{Name: i.name},
		Spec:       v1alpha1.EnrollmentRequestSpec{KeyFingerprint: i.fingerprint, Replaces: known},
	}, metav1.CreateOptions{FieldManager: fieldManager})
	switch {
	case err == nil:
		c.Logger.Warn("a device that this server once let in is not known: it waits for approval", "device", i.name, "fingerprint", i.fingerprint)
	case apierrors.IsAlreadyExists(err):
		return nil
	}
	return err
}

// isNewer reports whether a stranger's certificate was issued after the last
// one that the store knows of.
func isNewer(i item, d *v1alpha1.Device) bool {
	return d.Status.CertificateExpires == nil || i.expires > d.Status.CertificateExpires.Unix()
}
