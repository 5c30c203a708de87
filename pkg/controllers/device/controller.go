package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/events"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// kind is that of the objects that the controller writes, for the metric.
	kind         = "Device"
	fieldManager = client.DeviceManager
	workers      = 4
	// Devices that are revoked together are told and dropped within a second,
	// even if each of them takes all the time that a Notice may take.
	leavingWorkers = 32
	// gathering is how long what a device does is gathered before its object is
	// written: one that connects says several things at once.
	gathering = 500 * time.Millisecond
	// confirming is how long the news may wait that a device has the nonce that it was
	// given. A change of a Deployment brings them from all devices at once, and makes
	// all of them wait that are written before it is done.
	confirming = 10 * time.Second
	// arrival is how soon a device that has enrolled connects. Only if it does not, its
	// status has to say so.
	arrival = 10 * time.Second
	// compactInterval is how often tombstones are merged.
	compactInterval = 24 * time.Hour
	// A budget for API writes, so that a site that comes back at once does not
	// keep people from using the API.
	writeRate  = 500 // a second
	writeBurst = 500
)

// Door is what the controller asks of the device API.
type Door interface {
	// Forget removes everything that a device ever reported.
	Forget(ctx context.Context, device string) error
	// Notice tells the device, if it is connected, what to do now that it is
	// revoked.
	Notice(device string, r wire.Revocation) error
	// Nudge asks the device, soon, to fetch a snapshot.
	Nudge(device string)
}

// Uses counts the uses of enrollment tokens.
type Uses interface {
	// Settle makes sure that a use of a token stays counted when the Device that bears
	// its number is gone.
	Settle(ctx context.Context, token string, number int) error
}

// Config is what the controller needs. The informer is started by the caller.
type Config struct {
	Client     *client.Client
	Devices    cache.SharedIndexInformer
	Infos      jetstream.KeyValue
	Roster     *roster.Roster
	Tombstones *tombstone.List
	Door       Door
	Uses       Uses
	// Lacks returns what a device's agent lacks for its Deployments, and false while
	// that is not known.
	Lacks func(device string) (lacks []assignment.Lack, known bool)
	// Problems returns why Deployments cannot be rendered for a device, and false while that is
	// not known.
	Problems func(device string) (problems []assignment.Problem, known bool)
	Recorder record.EventRecorder
	Metrics  *reconcile.Metrics
	Logger   *slog.Logger
	// Clock is the server's; nil for that of the machine.
	Clock Clock
}

// Clock tells the time.
type Clock interface {
	Now() time.Time
	// Sane returns why the clock cannot be believed, or nil.
	Sane() error
}

// wall is the clock of the machine.
type wall struct{}

func (wall) Now() time.Time { return time.Now() }
func (wall) Sane() error    { return nil }

// Controller reconciles Devices.
type Controller struct {
	Config

	queue *reconcile.Queue[string]
	// leaving are devices to be told that they are revoked, and to be dropped.
	leaving *reconcile.Queue[string]
	budget  *rate.Limiter
	ready   chan struct{}

	mu sync.Mutex // guards what follows
	// reports has what each device said of itself.
	reports map[string]report
	// written are the versions that reports made, by device, until the cache has them.
	written map[string]written
	// statuses are the versions that our last status made, by device.
	statuses map[string]string
	// released has the UIDs whose finalizer we removed. Any other deletion bypassed us,
	// so the keys of those in gone must still be refused for good.
	released map[types.UID]bool
	gone     map[string]*v1alpha1.Device
	// tooOld are devices whose agent is refused, until an event says so.
	tooOld map[string]bool
}

// report is what a device said of itself, as bucket device-info holds it.
type report struct {
	info   wire.DeviceInfo
	digest wire.Digest
	// applied: the object reflects it.
	applied bool
}

// New returns a controller that does not run yet.
func New(c Config) *Controller {
	if c.Clock == nil {
		c.Clock = wall{}
	}
	return &Controller{
		Config: c, budget: rate.NewLimiter(writeRate, writeBurst),
		queue: reconcile.NewQueue[string]("device", c.Metrics), leaving: reconcile.NewQueue[string]("device-leaving", c.Metrics),
		reports: map[string]report{}, written: map[string]written{}, statuses: map[string]string{}, released: map[types.UID]bool{}, gone: map[string]*v1alpha1.Device{}, tooOld: map[string]bool{}, ready: make(chan struct{}),
	}
}

// Ready is closed when the roster knows every device.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// Run works until ctx ends. It returns an error only when it cannot start.
func (c *Controller) Run(ctx context.Context) error {
	defer c.queue.ShutDown()
	defer c.leaving.ShutDown()
	changed := func(o any) {
		d := o.(*v1alpha1.Device)
		defer c.queue.Add(d.Name) // after it is refused, and also if that panics
		c.refuse(d)
	}
	h, err := c.Devices.AddEventHandler(reconcile.Guarded(c.Metrics.Loop("device-changes", c.Logger), cache.ResourceEventHandlerFuncs{
		AddFunc: changed, DeleteFunc: c.removed,
		UpdateFunc: func(old, o any) {
			if c.isOwnStatus(o.(*v1alpha1.Device)) {
				return
			}
			defer changed(o)
			events.Record(c.Recorder, o.(*v1alpha1.Device), events.OfEnrollment(old.(*v1alpha1.Device), o.(*v1alpha1.Device))...)
		},
	}))
	if err != nil {
		return fmt.Errorf("watching Devices: %w", err)
	}
	if !cache.WaitFor(ctx, "", h.HasSyncedChecker()) {
		return fmt.Errorf("listing Devices: %w", ctx.Err())
	}
	for _, o := range c.Devices.GetStore().List() {
		d := o.(*v1alpha1.Device)
		c.bind(d)
		c.Roster.Load(d.Name, storedRecord(d))
	}
	close(c.ready)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.watchInfos(ctx) })
	g.Go(func() error { return c.Metrics.Loop("device-presence", c.Logger).Keep(ctx, c.watchPresence) })
	g.Go(func() error { c.runLeaving(ctx); return nil })
	g.Go(func() error { return c.Metrics.Loop("revoked-keys", c.Logger).Keep(ctx, c.compactTombstones) })
	for range workers {
		g.Go(func() error {
			reconcile.Work(ctx, c.queue, c.Logger, c.Reconcile)
			return nil
		})
	}
	return g.Wait()
}

// StatusChanged tells that the status of a device has to be written anew.
func (c *Controller) StatusChanged(device string) { c.queue.AddAfter(device, gathering) }

// NonceShown tells the same, and that it can wait.
func (c *Controller) NonceShown(device string) { c.queue.AddAfter(device, confirming) }

// Leaves tells that a revoked device has to be told and dropped.
func (c *Controller) Leaves(device string) { c.leaving.Add(device) }

// Outdated tells that the agent of a device is too old for this server, and that it is
// refused for that. Of a device that enrolled a moment ago the cache may not have the object yet.
func (c *Controller) Outdated(name string) {
	c.mu.Lock()
	c.tooOld[name] = true
	c.mu.Unlock()
	c.queue.Add(name)
}

func (c *Controller) tellTooOld(d *v1alpha1.Device) {
	c.mu.Lock()
	is := c.tooOld[d.Name]
	delete(c.tooOld, d.Name)
	c.mu.Unlock()
	if is {
		events.Record(c.Recorder, d, events.AgentTooOld())
	}
}

// bind tells the roster which keys may connect as the device.
func (c *Controller) bind(d *v1alpha1.Device) {
	switch {
	case d.Spec.Enrollment == nil:
		c.Roster.UnbindAt(d.Name, client.VersionOf(d))
	case d.IsOut():
		c.Roster.Revoke(d.Name, wire.Revocation(d.Spec.OnRevoke))
	default:
		c.Roster.Bind(d.Name, client.KeysOf(d))
	}
}

// wasUsed reports whether the device has proved itself with its next key already.
func (c *Controller) wasUsed(d *v1alpha1.Device) bool {
	e := d.Spec.Enrollment
	used, _ := c.Roster.Used(d.Name)
	return e != nil && e.NextKeyFingerprint != "" && used == e.NextKeyFingerprint
}

// refuse refuses a device that is revoked, at once, and has it told and dropped.
// What makes it last, the tombstone, takes a write to the disk and comes after: see
// revoke.
func (c *Controller) refuse(d *v1alpha1.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.released[d.UID]: // it is there for somebody else's finalizer alone
	case d.IsOut():
		c.Roster.Revoke(d.Name, wire.Revocation(d.Spec.OnRevoke))
	case c.Roster.IsOut(d.Name): // its key is still refused; the name can be bound to another one
		c.Roster.Unbind(d.Name)
	}
}

// runLeaving tells and drops devices until ctx ends.
func (c *Controller) runLeaving(ctx context.Context) {
	var working sync.WaitGroup
	for range leavingWorkers {
		working.Go(func() {
			reconcile.Work(ctx, c.leaving, c.Logger, func(_ context.Context, name string) (time.Duration, error) {
				c.leave(name)
				return 0, nil
			})
		})
	}
	working.Wait()
}

func (c *Controller) leave(name string) {
	revocation, is := c.Roster.Leaving(name)
	if !is {
		return // an operator let it back in
	}
	if err := c.Door.Notice(name, revocation); err != nil {
		c.Logger.Warn("dropping a revoked device", "error", err)
	}
	c.Roster.Drop(name)
	c.Roster.Left(name)
}

// removed takes a Device whose object is gone.
func (c *Controller) removed(o any) {
	if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = last.Obj
	}
	d, ok := o.(*v1alpha1.Device)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released[d.UID] {
		delete(c.released, d.UID)
		return
	}
	c.gone[d.Name] = d
	c.queue.Add(d.Name)
}

// finish revokes a device whose object went without a release.
func (c *Controller) finish(ctx context.Context, name string) error {
	c.mu.Lock()
	d := c.gone[name]
	c.mu.Unlock()
	if d == nil {
		return nil
	}
	if err := c.revoke(ctx, d, "deleted"); err != nil {
		return err
	}
	c.Roster.Forget(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.reports, name)
	delete(c.written, name)
	delete(c.statuses, name)
	delete(c.tooOld, name)
	if c.gone[name] == d {
		delete(c.gone, name)
	}
	return nil
}

// Reconcile brings one Device up to date, and returns when to look at it again.
func (c *Controller) Reconcile(ctx context.Context, name string) (again time.Duration, err error) {
	o, exists, err := c.Devices.GetStore().GetByKey(name)
	if err != nil {
		return 0, err
	}
	if _, is := c.Roster.Leaving(name); is {
		return 0, nil // it is looked at again afterwards
	}
	if err := c.finish(ctx, name); err != nil || !exists {
		return 0, err
	}
	seen := o.(*v1alpha1.Device)
	c.tellTooOld(seen)
	d := seen.DeepCopy()
	d.ManagedFields = nil // an informer has a part of them, and what is written must have none
	switch {
	case !d.DeletionTimestamp.IsZero():
		return 0, c.release(ctx, d)
	case !slices.Contains(d.Finalizers, v1alpha1.DeviceFinalizer):
		return 0, c.addFinalizer(ctx, d)
	case d.Spec.Revoked:
		if err := c.revoke(ctx, d, "revoked"); err != nil {
			return 0, err
		}
		return 0, c.writeStatus(ctx, d)
	}
	c.bind(d)
	if d.Spec.Enrollment == nil && len(c.Roster.Keys(d.Name)) == 0 {
		c.Roster.Drop(d.Name) // somebody took its keys away
	}
	if c.wasUsed(d) {
		return 0, c.adoptKey(ctx, d)
	}
	if wait := c.arrives(d); wait > 0 {
		return wait, nil
	}
	if changed, err := c.writeReport(ctx, seen); err != nil || changed {
		return 0, err // once the cache has what changed, it is looked at again
	}
	return 0, c.writeStatus(ctx, d)
}

// arrives returns how long to wait for a device that enrolled a moment ago, and has
// not connected yet.
func (c *Controller) arrives(d *v1alpha1.Device) time.Duration {
	e := d.Spec.Enrollment
	if e == nil || e.EnrolledAt == nil || len(d.Status.Conditions) > 0 {
		return 0
	}
	if _, present, _ := c.Roster.Presence(d.Name); present {
		return 0
	}
	since := c.Clock.Now().Sub(e.EnrolledAt.Time)
	if since < 0 { // the clock was set back
		return 0
	}
	return max(0, arrival-since)
}

// adoptKey makes the next key, with which the device proved itself, the only one.
// The previous key is refused for good, so that no older backup brings it back.
func (c *Controller) adoptKey(ctx context.Context, d *v1alpha1.Device) error {
	e := d.Spec.Enrollment
	err := c.Tombstones.Add(tombstone.Entry{Fingerprint: e.KeyFingerprint, Device: d.Name, Reason: tombstone.ReasonRenewed, Time: c.Clock.Now().UTC()})
	if err != nil {
		return err
	}
	e.KeyFingerprint, e.NextKeyFingerprint = e.NextKeyFingerprint, ""
	c.Metrics.Wrote(kind, "renewed")
	if _, err := c.Client.Devices().Update(ctx, d, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
		return client.IgnoreNotFound(err)
	}
	c.Logger.Info("device uses its new key", "device", d.Name, "fingerprint", e.KeyFingerprint)
	_, expires := c.Roster.Used(d.Name)
	events.Record(c.Recorder, d, events.DeviceRenewed(expires))
	return nil
}

func (c *Controller) addFinalizer(ctx context.Context, d *v1alpha1.Device) error {
	d.Finalizers = append(d.Finalizers, v1alpha1.DeviceFinalizer)
	c.Metrics.Wrote(kind, "finalizer")
	_, err := c.Client.Devices().Update(ctx, d, metav1.UpdateOptions{FieldManager: fieldManager})
	return client.IgnoreNotFound(err)
}

// release lets a deleted Device go once its key is refused for good.
func (c *Controller) release(ctx context.Context, d *v1alpha1.Device) error {
	if !slices.Contains(d.Finalizers, v1alpha1.DeviceFinalizer) {
		return nil
	}
	if err := c.revoke(ctx, d, "deleted"); err != nil {
		return err
	}
	c.forget(d)
	d.Finalizers = slices.DeleteFunc(d.Finalizers, func(f string) bool { return f == v1alpha1.DeviceFinalizer })
	c.Metrics.Wrote(kind, "release")
	_, err := c.Client.Devices().Update(ctx, d, metav1.UpdateOptions{FieldManager: fieldManager})
	if err != nil {
		c.mu.Lock()
		delete(c.released, d.UID)
		c.mu.Unlock()
	}
	return client.IgnoreNotFound(err)
}

// forget forgets a device that is about to go.
func (c *Controller) forget(d *v1alpha1.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Roster.Forget(d.Name)
	delete(c.reports, d.Name)
	delete(c.written, d.Name)
	delete(c.statuses, d.Name)
	delete(c.tooOld, d.Name)
	c.released[d.UID] = true
}

// revoke refuses the device's keys for good, has the use of its token counted, then
// drops its connection, if it came back meanwhile, and what is known of the machine.
func (c *Controller) revoke(ctx context.Context, d *v1alpha1.Device, reason string) error {
	if e := d.Spec.Enrollment; e != nil {
		if err := c.writeTombstones(d, reason); err != nil {
			return err
		}
		if err := c.Uses.Settle(ctx, e.Token, e.TokenUse); err != nil {
			return err
		}
	}
	c.Roster.Reset(d.Name) // first, so that no report that is on its way counts
	c.Roster.Drop(d.Name)
	return c.Door.Forget(ctx, d.Name)
}

// writeTombstones writes those of a device's keys. The first time it says so: after a
// theft somebody wants to know when the device was refused.
func (c *Controller) writeTombstones(d *v1alpha1.Device, reason string) error {
	e := d.Spec.Enrollment
	known := c.Tombstones.Has(e.KeyFingerprint)
	err := c.Tombstones.AddAll(tombstone.Entry{
		Device: d.Name, Reason: reason, Time: c.Clock.Now().UTC(), Revocation: wire.Revocation(d.Spec.OnRevoke),
	}, e.KeyFingerprint, e.NextKeyFingerprint)
	if err != nil || known {
		return err
	}
	c.Logger.Warn("device revoked", "device", d.Name, "reason", reason, "workloads", d.Spec.OnRevoke, "fingerprint", e.KeyFingerprint)
	events.Record(c.Recorder, d, events.DeviceRevoked(reason))
	return nil
}

// compactTombstones merges, once a day, the tombstones of keys that devices
// renewed long ago.
func (c *Controller) compactTombstones(ctx context.Context) error {
	tick := time.NewTicker(compactInterval)
	defer tick.Stop()
	for {
		if c.Clock.Sane() == nil {
			gone, err := c.Tombstones.Compact(c.Clock.Now(), c.certificateEnds())
			if err != nil {
				c.Logger.Warn("the list of revoked keys is not compacted", "error", err)
			} else if gone > 0 {
				c.Logger.Info("keys that were renewed long ago are merged in the list of revoked keys", "keys", gone)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// certificateEnds is when the certificates end that devices last came with, by
// name. What a restored store says of older ones does not count.
func (c *Controller) certificateEnds() map[string]time.Time {
	ends := map[string]time.Time{}
	for _, o := range c.Devices.GetStore().List() {
		d := o.(*v1alpha1.Device)
		if d.Spec.Enrollment != nil && d.Status.CertificateExpires != nil && !c.Tombstones.Outdated(d) {
			ends[d.Name] = d.Status.CertificateExpires.Time
		}
	}
	return ends
}

// writeReport applies what the device last reported to its object, and reports
// whether that changed it since d, which is as an informer has it. What it decides
// holds for this version: the write fails for every other one. After a restart, nobody
// knows any more what was applied, and nothing is written of what the object has.
func (c *Controller) writeReport(ctx context.Context, d *v1alpha1.Device) (changed bool, err error) {
	c.mu.Lock()
	r, reported := c.reports[d.Name]
	c.mu.Unlock()
	if c.isBehind(d) {
		return true, nil
	}
	// Whoever removes the label of the architecture wants the present one there.
	complete := hasIdentity(d) && (d.Labels[v1alpha1.LabelArch] != "" || reportedArch(r.info) == "")
	switch {
	case !reported:
		return c.writeIdentity(ctx, d)
	case r.applied && complete:
		return false, nil
	}
	owned, err := labelsOf(d, fieldManager)
	if err != nil {
		return false, err
	}
	g := decideLabels(d, owned, r.info)
	if !hasReport(d, owned, g, r.info) {
		if written, err := c.applyReport(ctx, d, g, r); err != nil || !written {
			return false, err
		}
		changed = true
	}
	c.noteApplied(d.Name, r)
	c.tell(d, g)
	return changed, nil
}

// applyReport writes a report and the labels that are granted, and reports whether it
// did.
func (c *Controller) applyReport(ctx context.Context, d *v1alpha1.Device, g grant, r report) (written bool, err error) {
	if err := c.budget.Wait(ctx); err != nil {
		return false, err
	}
	if d.Labels[v1alpha1.LabelArch] == "" {
		if is, err := c.isPresent(ctx, d.Name, r); err != nil || !is {
			return false, err
		}
	}
	c.Metrics.Wrote(kind, "report")
	now, err := client.Apply(ctx, c.Client.Devices(), fieldManager, "Device", d.Name, map[string]any{
		"metadata": map[string]any{"labels": g.labels, "resourceVersion": d.ResourceVersion, "uid": d.UID},
		"spec":     map[string]any{"inventory": v1alpha1.Inventory(r.info.Inventory)},
	})
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	c.noteWritten(now)
	return true, nil
}

// hasReport reports whether a Device has what a report says, and no label of an earlier
// one.
func hasReport(d *v1alpha1.Device, owned map[string]bool, g grant, info wire.DeviceInfo) bool {
	for key := range owned {
		if _, stays := g.labels[key]; !stays {
			return false
		}
	}
	for key, value := range g.labels {
		if present, has := d.Labels[key]; !has || present != value {
			return false
		}
	}
	return d.Spec.Inventory != nil && equality.Semantic.DeepEqual(*d.Spec.Inventory, v1alpha1.Inventory(info.Inventory))
}

// writeIdentity sets the labels that every device has on one that has reported
// nothing yet, or whose report is not read yet: what it reported before is kept.
func (c *Controller) writeIdentity(ctx context.Context, d *v1alpha1.Device) (changed bool, err error) {
	if hasIdentity(d) {
		return false, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": v1alpha1.IdentityLabels(d.Name), "uid": d.UID}})
	if err != nil {
		return false, fmt.Errorf("encoding labels: %w", err)
	}
	if err := c.budget.Wait(ctx); err != nil {
		return false, err
	}
	c.Metrics.Wrote(kind, "identity")
	_, err = c.Client.Devices().Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return err == nil, client.IgnoreNotFound(err)
}

// noteApplied notes that the object reflects a report, unless there is a newer one.
func (c *Controller) noteApplied(name string, r report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if present, has := c.reports[name]; has && present.digest == r.digest {
		present.applied = true
		c.reports[name] = present
	}
}

// decideLabels decides about the labels of a Device, of which owned are those that the
// server set for its reports.
func decideLabels(d *v1alpha1.Device, owned map[string]bool, info wire.DeviceInfo) grant {
	policy := labelPolicy{device: d.Name, arch: d.Labels[v1alpha1.LabelArch], foreign: func(key string) bool {
		_, set := d.Labels[key]
		return set && !owned[key]
	}}
	if e := d.Spec.Enrollment; e != nil {
		policy.allowed = e.AllowedLabelKeys
	}
	return policy.apply(info)
}

// isPresent reports whether the bucket still holds a report: that of a machine
// which was replaced says nothing about the next.
func (c *Controller) isPresent(ctx context.Context, name string, r report) (bool, error) {
	key, err := wire.InfoKey(name)
	if err != nil {
		return false, err
	}
	e, err := c.Infos.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the report of device %s: %w", name, err)
	}
	return wire.Sum(e.Value()) == r.digest, nil
}

// tell records events about what a device asked for and does not get.
func (c *Controller) tell(d *v1alpha1.Device, g grant) {
	if g.overreached {
		events.Record(c.Recorder, d, events.LabelsNotGranted())
	}
	if g.otherArch {
		events.Record(c.Recorder, d, events.ArchitectureChanged())
	}
	if len(g.dropped) > 0 {
		events.Record(c.Recorder, d, events.LabelsDropped(g.dropped))
	}
}

func (c *Controller) watchInfos(ctx context.Context) error {
	guard := c.Metrics.Loop("device-reports", c.Logger)
	err := bus.Watch(ctx, c.Infos, func(e jetstream.KeyValueEntry) { guard.Do(func() { c.takeInfo(e) }, "key", e.Key()) })
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *Controller) takeInfo(e jetstream.KeyValueEntry) {
	device, err := wire.ParseInfoKey(e.Key())
	if err != nil {
		return
	}
	if e.Operation() != jetstream.KeyValuePut {
		c.mu.Lock()
		delete(c.reports, device)
		c.mu.Unlock()
		return
	}
	info, err := wire.DecodeRequest[wire.DeviceInfo](wire.KindInfo, e.Value())
	if err != nil {
		c.Logger.Warn("bucket device-info has a report that cannot be read", "device", device)
		return
	}
	c.mu.Lock()
	digest := wire.Sum(e.Value())
	applied := c.reports[device].applied && c.reports[device].digest == digest
	c.reports[device] = report{info.Printable(), digest, applied}
	c.mu.Unlock()
	c.queue.AddAfter(device, gathering)
}

// watchPresence finds devices that fell silent. Once, when those that were
// connected before the start have had the time to come back, it looks at all.
func (c *Controller) watchPresence(ctx context.Context) error {
	settle := time.NewTimer(roster.Silence)
	defer settle.Stop()
	sweep := time.NewTimer(roster.Silence)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			sweep.Reset(c.Roster.Sweep() + time.Second)
		case <-settle.C:
			for _, name := range c.Devices.GetStore().ListKeys() {
				c.queue.Add(name)
			}
		}
	}
}
