package assigner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/controllers/revisions"
	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/controllers/term"
	"fleet.nationtech.io/fleet/pkg/controllers/verdicts"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// resyncInterval is how often the bucket is compared with the table, in case
// something else wrote to it.
const resyncInterval = 10 * time.Minute

// revisionTimeout bounds a read or a write of revisions.
const revisionTimeout = 10 * time.Second

// Config is what the controller needs. The informers are started by the
// caller.
type Config struct {
	Client      *client.Client
	Devices     cache.SharedIndexInformer
	Deployments cache.SharedIndexInformer
	Namespaces  cache.SharedIndexInformer
	Secrets     cache.SharedIndexInformer
	ConfigMaps  cache.SharedIndexInformer
	Verdicts    *verdicts.Book
	Revisions   Revisions
	Resolver    *secrets.Resolver
	Buckets     *bus.Buckets
	Term        term.Term
	// Servers is the list of NATS URLs that manifests carry; may be empty.
	Servers []string
	// Nudge asks a device to fetch a snapshot. It must not block.
	Nudge func(device string)
	// LacksChanged is told of devices whose Lacks or Problems may have changed. It must not
	// block.
	LacksChanged func(device string)
	Recorder     record.EventRecorder
	Metrics      *reconcile.Metrics
	Logger       *slog.Logger
}

// Revisions keep the scores of Deployments; revisions.Keeper is one.
type Revisions interface {
	// Watch calls changed with the key of a Deployment that lost a revision, or may adopt
	// one. It returns what says that every revision is listed.
	Watch(changed func(deployment string)) (cache.DoneChecker, error)
	// Keep fails while the score should wait for its revision.
	Keep(ctx context.Context, d *v1alpha1.Deployment, hash string, body []byte) error
	// Body returns nil when no revision has it.
	Body(ctx context.Context, d *v1alpha1.Deployment, hash string) ([]byte, error)
	// Hashes are those of the scores that are kept, the newest first.
	Hashes(d *v1alpha1.Deployment) []string
}

// Controller keeps the table in step with the API and carries its changes out.
type Controller struct {
	Config

	table  *assignment.Table
	images imageLists
	// rendered are the last bodies that were, by hash: a device asks for a body in pieces.
	rendered  *lru.Cache
	earlier   *earlier
	queue     *reconcile.Queue[item]
	projector *projector
	status    *statusWriter
	history   *history
	// due has a value when there may be something to render.
	due   chan struct{}
	ready chan struct{}
	// templates guards each rendering of one.
	templates *guard.Guard
}

// item names an object that changed. Name holds a device's name, or
// "<namespace>/<name>" of a Deployment or a Secret, verdicts.KeyOfConfigMap, or a namespace.
type item struct {
	kind itemKind
	name string
}

// LogValue implements slog.LogValuer.
func (i item) LogValue() slog.Value { return slog.StringValue(i.name) }

type itemKind int

const (
	deviceItem itemKind = iota
	deploymentItem
	namespaceItem
	secretItem
	// reportItem is a key of bucket device-state, whose report could not be taken.
	reportItem
)

// renderedBodies is how many rendered bodies are kept, of at most 256 KiB each.
const renderedBodies = 32

// New returns a controller that does not run yet. Buckets and Nudge may be
// set until Run.
func New(c Config) *Controller {
	return &Controller{
		Config: c, queue: reconcile.NewQueue[item]("assigner", c.Metrics), history: newHistory(c.Metrics), due: make(chan struct{}, 1), ready: make(chan struct{}),
		rendered: lru.New(renderedBodies), earlier: newEarlier(), templates: c.Metrics.Loop("assigner-templates", c.Logger),
	}
}

// Ready is closed when manifests are complete.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

func (c *Controller) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// Run works until ctx ends. It returns an error when it cannot start, or
// cannot see reports any more.
func (c *Controller) Run(ctx context.Context) error {
	defer c.queue.ShutDown()
	defer c.history.fresh.ShutDown()
	defer c.history.settled.ShutDown()
	prior, err := c.bucket(ctx)
	if err != nil {
		return err
	}
	c.table = assignment.NewTable(prior)
	c.projector = newProjector(c.Buckets.DesiredState, c.table, c.Metrics, c.Logger)
	c.status = newStatusWriter(c.Client, c.Deployments.GetStore(), c.table, c.Recorder, c.Metrics, c.Logger)
	if err := c.watchObjects(ctx); err != nil {
		return err
	}
	c.keepNew(ctx, prior)
	c.build()
	c.table.Settle()
	c.projector.add(c.table.Diff(prior))
	close(c.ready)
	c.Logger.Info("manifests are ready", "epoch", c.Term.Epoch, "term", c.Term.Number)
	return c.work(ctx)
}

// Held returns the hashes of the bodies that devices have of a Deployment.
func (c *Controller) Held(ref wire.DeploymentRef) map[string]bool { return c.table.BodiesOf(ref) }

// Epoch implements deviceapi.Manifests.
func (c *Controller) Epoch() string { return c.Term.Epoch }

// Manifest implements deviceapi.Manifests.
func (c *Controller) Manifest(device string) (*wire.Manifest, error) {
	if !c.isReady() {
		return nil, assignment.ErrNotReady
	}
	entries, seq, ok := c.table.Manifest(device)
	if !ok {
		return nil, assignment.ErrNotReady // enrolled a moment ago
	}
	if len(entries) > wire.MaxEntries {
		return nil, &wire.Refusal{Code: wire.RefusedUnavailable, Message: fmt.Sprintf("%d Deployments match this device, at most %d are possible", len(entries), wire.MaxEntries)}
	}
	return &wire.Manifest{
		Version:  wire.Version{Epoch: c.Term.Epoch, Term: c.Term.Number, Seq: seq},
		Complete: true, Servers: c.Servers, Entries: entries,
	}, nil
}

// Body implements deviceapi.Manifests.
func (c *Controller) Body(device, hash string) ([]byte, bool) {
	if !c.isReady() {
		return nil, false
	}
	body, render := c.table.Body(device, hash)
	if render == nil {
		return body, body != nil
	}
	if kept, is := c.rendered.Get(hash); is {
		return kept.([]byte), true //nolint:forcetypeassert // of what follows
	}
	body, ok := render()
	if ok {
		c.rendered.Add(hash, body)
	}
	return body, ok
}

// Secret implements deviceapi.Manifests.
func (c *Controller) Secret(device string, ref wire.DeploymentRef, name string) (data map[string][]byte, digest string, ok bool) {
	if !c.isReady() {
		return nil, "", false
	}
	with, needs := c.table.NeedsSecret(device, ref, name)
	if !needs {
		return nil, "", false
	}
	var err error
	if with == nil { // an agent that does not say which Deployment it is for
		data, err = c.Resolver.Data(ref.Namespace, name)
	} else {
		data, digest, err = c.Resolver.Deliver(ref.Namespace, with, name)
	}
	return data, digest, err == nil
}

// Lacks returns what the agent of a device lacks. It returns false while that is
// not known.
func (c *Controller) Lacks(device string) (lacks []assignment.Lack, known bool) {
	if !c.isReady() {
		return nil, false
	}
	return c.table.Lacks(device), true
}

// Problems returns why Deployments cannot be rendered for a device. It returns false while
// that is not known.
func (c *Controller) Problems(device string) (problems []assignment.Problem, known bool) {
	if !c.isReady() {
		return nil, false
	}
	return c.table.Problems(device), true
}

// Withdraw takes a Deployment off every device and returns when its keys are
// gone from the bucket, or when ctx ends. The devices learn of it either way.
func (c *Controller) Withdraw(ctx context.Context, ref wire.DeploymentRef) error {
	if !c.isReady() {
		return assignment.ErrNotReady
	}
	c.apply(c.table.RemoveDeployment(ref))
	return c.projector.wait(ctx, ref)
}

// bucket reads bucket desired-state. Keys and values that cannot be read are
// returned with a zero entry, so that the comparison removes or rewrites them.
func (c *Controller) bucket(ctx context.Context) (map[assignment.Key]wire.Entry, error) {
	held := map[assignment.Key]wire.Entry{}
	err := bus.Load(ctx, c.Buckets.DesiredState, func(key string, value []byte) {
		device, ref, err := wire.ParseDesiredStateKey(key)
		if err != nil {
			c.Logger.Warn("bucket desired-state has a key that is not ours", "key", key)
			return
		}
		var e wire.Entry
		if json.Unmarshal(value, &e) != nil || e.Validate() != nil {
			e = wire.Entry{}
		}
		held[assignment.Key{Device: device, DeploymentRef: ref}] = e
	})
	return held, err
}

// watchObjects enqueues what changes and returns when every list is complete.
func (c *Controller) watchObjects(ctx context.Context) error {
	synced, guard := make([]cache.DoneChecker, 0, 6), c.Metrics.Loop("assigner-changes", c.Logger)
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		c.Devices:     reconcile.Changes(deviceDiffers, c.enqueuer(deviceItem)),
		c.Deployments: reconcile.Changes(deploymentDiffers, c.enqueuer(deploymentItem)),
		c.Namespaces:  reconcile.Changes(verdicts.NamespaceDiffers, c.enqueuer(namespaceItem)),
		c.Secrets:     reconcile.Changes(verdicts.SecretDiffers, c.enqueuer(secretItem)),
		c.ConfigMaps: reconcile.Changes(verdicts.ConfigMapDiffers, func(key string) {
			c.enqueuer(secretItem)(verdicts.KeyOfConfigMap(key))
		}),
	} {
		h, err := informer.AddEventHandler(reconcile.Guarded(guard, handler))
		if err != nil {
			return fmt.Errorf("watching objects: %w", err)
		}
		synced = append(synced, h.HasSyncedChecker())
	}
	revisions, err := c.Revisions.Watch(c.enqueuer(deploymentItem))
	if err != nil {
		return fmt.Errorf("watching revisions: %w", err)
	}
	if !cache.WaitFor(ctx, "", append(synced, revisions)...) {
		return fmt.Errorf("listing objects: %w", ctx.Err())
	}
	return nil
}

// deploymentDiffers reports whether anything here depends on what was changed.
func deploymentDiffers(old, now *v1alpha1.Deployment) bool {
	return verdicts.DeploymentDiffers(old, now) || revisions.CauseDiffers(old, now)
}

func (c *Controller) enqueuer(kind itemKind) func(key string) {
	return func(key string) { c.queue.Add(item{kind, key}) }
}

// keepNew writes the revisions of scores that no device was told of before the start.
// Those that devices have were written before, or by the queue after a version that
// wrote none. A slow API delays the start for a bounded time.
func (c *Controller) keepNew(ctx context.Context, prior map[assignment.Key]wire.Entry) {
	ctx, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	issued := map[wire.DeploymentRef]string{}
	for k, e := range prior {
		issued[k.DeploymentRef] = e.Score()
	}
	for _, o := range c.Deployments.GetStore().List() {
		d := o.(*v1alpha1.Deployment)
		ref := wire.DeploymentRef{Namespace: d.Namespace, Name: d.Name}
		v := c.Verdicts.Of(d)
		if !mayTell(d, v) || v.Entry.Hash == issued[ref] {
			continue
		}
		if err := c.keepRevision(ctx, d, v); err != nil { // the queue tries again
			c.Logger.Warn("starting before every score has its revision", "deployment", ref.String(), "error", err)
			return
		}
	}
}

// build fills the table from the complete lists. Its changes are not carried
// out one by one: the comparison with the bucket finds them.
func (c *Controller) build() {
	for _, o := range c.Devices.GetStore().List() {
		c.table.SetDevice(deviceFacts(o.(*v1alpha1.Device)))
	}
	for _, o := range c.Deployments.GetStore().List() {
		d := o.(*v1alpha1.Deployment)
		v := c.Verdicts.Of(d)
		if mayTell(d, v) {
			c.history.tell(d.Namespace+"/"+d.Name, scoreOf(d, v))
		}
		c.status.add(c.table.SetDeployment(c.deploymentFacts(d, v)).Deployments)
	}
	c.mayRender()
}

func (c *Controller) work(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.projector.guard.Keep(ctx, c.projector.run) })
	g.Go(func() error { return c.status.guard.Keep(ctx, c.status.run) })
	g.Go(func() error { return c.Metrics.Loop("assigner-resync", c.Logger).Keep(ctx, c.resync) })
	g.Go(func() error { c.keepRevisions(ctx); return nil })
	g.Go(func() error { return c.Metrics.Loop("assigner-renderings", c.Logger).Keep(ctx, c.render) })
	g.Go(func() error { return c.watchStates(ctx) })
	g.Go(func() error {
		reconcile.Work(ctx, c.queue, c.Logger, func(ctx context.Context, i item) (time.Duration, error) { return 0, c.process(ctx, i) })
		return nil
	})
	return g.Wait()
}

func (c *Controller) process(ctx context.Context, i item) error {
	switch i.kind {
	case reportItem:
		return c.readState(ctx, i.name)
	case deviceItem:
		c.processDevice(i.name)
	case deploymentItem:
		c.processDeployment(i.name)
	case namespaceItem:
		c.enqueueDeployments(c.Verdicts.In(i.name))
	case secretItem:
		c.enqueueDeployments(c.Verdicts.Needing(i.name))
	}
	return nil
}

func (c *Controller) enqueueDeployments(keys []string) {
	for _, key := range keys {
		c.queue.Add(item{deploymentItem, key})
	}
}

func (c *Controller) processDevice(name string) {
	o, exists, err := c.Devices.GetStore().GetByKey(name)
	if err != nil || !exists {
		c.apply(c.table.RemoveDevice(name))
		return
	}
	c.apply(c.table.SetDevice(deviceFacts(o.(*v1alpha1.Device))))
}

func (c *Controller) processDeployment(key string) {
	o, exists, err := c.Deployments.GetStore().GetByKey(key)
	if err != nil || !exists {
		c.Verdicts.Forget(key)
		c.history.forget(key)
		if ns, name, err := cache.SplitMetaNamespaceKey(key); err == nil {
			c.apply(c.table.RemoveDeployment(wire.DeploymentRef{Namespace: ns, Name: name}))
		}
		return
	}
	d := o.(*v1alpha1.Deployment)
	v := c.Verdicts.Of(d)
	if mayTell(d, v) && !c.history.told(key, scoreOf(d, v)) {
		return // until its revision is written
	}
	// Not delayed until the finalizer is on: it lets a deletion wait for the keys,
	// but an object that vanishes without it loses its keys as well.
	c.apply(c.table.SetDeployment(c.deploymentFacts(d, v)))
}

// apply tells of what changed, for which something may have to be rendered.
func (c *Controller) apply(changes assignment.Changes) {
	c.tell(changes)
	c.mayRender()
}

func (c *Controller) tell(changes assignment.Changes) {
	c.projector.add(changes.Keys)
	for _, device := range changes.Devices {
		c.Nudge(device)
	}
	for _, device := range changes.Lacks {
		c.LacksChanged(device)
	}
	c.status.add(changes.Deployments)
}

func (c *Controller) deploymentFacts(d *v1alpha1.Deployment, v *acceptance.Verdict) assignment.Deployment {
	facts := assignment.Deployment{
		DeploymentRef: wire.DeploymentRef{Namespace: d.Namespace, Name: d.Name},
		Generation:    d.Generation,
		Selector:      selectorFacts(v.Selector),
		Unreadable:    v.Reason == v1alpha1.ReasonInvalidSelector,
		Accepted:      v.Accepted, Entry: v.Entry, Body: v.Body, Secrets: v.Secrets, Needs: v.Needs,
		Deleting: !d.DeletionTimestamp.IsZero(),
		At:       time.Now(),
	}
	if !v.Accepted {
		facts.Refusal = assignment.Refusal{Reason: v.Reason, Message: v.Message}
	}
	if v.Template != nil {
		facts.Template = carefulTemplate{v.Template, c.templates}
	}
	return facts
}

// carefulTemplate is a template. If it panics with the values of a device, the device is told
// nothing new, and its Deployment fails there: everything else goes on.
type carefulTemplate struct {
	*acceptance.Template

	guard *guard.Guard
}

// Render implements assignment.Template.
func (t carefulTemplate) Render(values template.Values) (body []byte, err error) {
	err = t.guard.Try(func() (err error) { body, err = t.Template.Render(values); return err })
	return body, err
}

// selectorFacts says what a selector requires, in terms of the table.
func selectorFacts(s labels.Selector) (facts assignment.Selector) {
	requirements, selectable := s.Requirements()
	facts.Nothing = !selectable
	for _, r := range requirements {
		facts.Requirements = append(facts.Requirements, assignment.Requirement{
			Key: r.Key(), Operator: operators[r.Operator()], Values: slices.Sorted(maps.Keys(r.Values())),
		})
	}
	return facts
}

// operators are those that a target selector can have.
var operators = map[selection.Operator]assignment.Operator{
	selection.In: assignment.In, selection.NotIn: assignment.NotIn, selection.Exists: assignment.Exists, selection.DoesNotExist: assignment.DoesNotExist,
}

func deviceFacts(d *v1alpha1.Device) assignment.Device {
	facts := assignment.Device{
		Name: d.Name, Labels: d.Labels,
		Unschedulable: d.Spec.Unschedulable,
		Revoked:       d.IsOut(),
		Offline:       isOffline(d),
	}
	facts.Capabilities = wire.ParseCapabilities(d.Status.Capabilities)
	facts.Values = deviceValues(d)
	if d.Spec.AllowedNamespaces != nil {
		facts.AllowedNamespaces = append([]string{}, *d.Spec.AllowedNamespaces...)
	}
	return facts
}

// deviceDiffers reports whether deviceFacts may differ. Most updates of a Device are
// of its status alone.
func deviceDiffers(old, now *v1alpha1.Device) bool {
	return old.UID != now.UID || old.Generation != now.Generation || old.IsOut() != now.IsOut() || !maps.Equal(old.Labels, now.Labels) || !maps.Equal(old.Annotations, now.Annotations) ||
		isOffline(old) != isOffline(now) || !slices.Equal(old.Status.Capabilities, now.Status.Capabilities) ||
		(old.Status.Capabilities == nil) != (now.Status.Capabilities == nil)
}

func isOffline(d *v1alpha1.Device) bool {
	return !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceConnected)
}

// watchStates follows bucket device-state.
func (c *Controller) watchStates(ctx context.Context) error {
	guard := c.Metrics.Loop("assigner-reports", c.Logger)
	err := bus.Watch(ctx, c.Buckets.State, func(e jetstream.KeyValueEntry) {
		if guard.Try(func() error { c.takeState(e); return nil }, "key", e.Key()) != nil {
			c.queue.AddRateLimited(item{reportItem, e.Key()}) // the device does not send it again
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// readState takes what the bucket holds under a key now.
func (c *Controller) readState(ctx context.Context, key string) error {
	e, err := c.Buckets.State.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil // which the watch has told
	}
	if err == nil {
		c.takeState(e)
	}
	return err
}

func (c *Controller) takeState(e jetstream.KeyValueEntry) {
	device, ref, err := wire.ParseStateKey(e.Key())
	if err != nil {
		return
	}
	if e.Operation() != jetstream.KeyValuePut {
		c.status.add(c.table.RemoveState(assignment.Key{Device: device, DeploymentRef: ref}).Deployments)
		return
	}
	s, err := wire.DecodeState(e.Value())
	if err != nil || s.DeploymentRef != ref {
		c.Logger.Warn("bucket device-state has a report that cannot be read", "key", e.Key())
		return
	}
	s = s.Printable()
	s.LastEventAt = plausible(s.LastEventAt, e.Created())
	c.status.add(c.table.SetState(device, s).Deployments)
}

// plausible bounds what the clock of a device says by when the report came. A
// device whose clock is ahead would have the newest error for years, and the API
// takes no year but 1 to 9999: one report would keep the status of its
// Deployment out.
func plausible(at, received time.Time) time.Time {
	if first := time.Unix(0, 0); at.Before(first) {
		return first
	}
	if at.After(received) {
		return received
	}
	return at
}

func (c *Controller) resync(ctx context.Context) error {
	tick := time.NewTicker(resyncInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		held, err := c.bucket(ctx)
		if err != nil && !errors.Is(err, context.Canceled) {
			c.Logger.Warn("comparing bucket desired-state", "error", err)
			continue
		}
		c.projector.add(c.table.Diff(held))
	}
}
