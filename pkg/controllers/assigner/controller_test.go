package assigner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	cachetest "k8s.io/client-go/tools/cache/testing"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/controllers/term"
	"fleet.nationtech.io/fleet/pkg/controllers/verdicts"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// rig is a controller with a real bus and an API that the test plays.
type rig struct {
	*assigner.Controller
	t       testing.TB
	buckets *bus.Buckets
	desired *brokenBucket
	api     *statusAPI

	verdicts *verdicts.Book
	history  *history

	devices, deployments, namespaces, secrets, configMaps *cachetest.FakeControllerSource

	mu     sync.Mutex // guards nudged
	nudged []string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	buckets := *brokertest.Start(t, nil).Buckets
	desired := &brokenBucket{KeyValue: buckets.DesiredState}
	buckets.DesiredState = desired
	r := &rig{
		t: t, buckets: &buckets, desired: desired, api: newStatusAPI(), history: &history{},
		devices: cachetest.NewFakeControllerSource(), deployments: cachetest.NewFakeControllerSource(), namespaces: cachetest.NewFakeControllerSource(),
		secrets: cachetest.NewFakeControllerSource(), configMaps: cachetest.NewFakeControllerSource(),
	}
	for _, source := range []*cachetest.FakeControllerSource{r.devices, r.deployments, r.namespaces, r.secrets, r.configMaps} {
		t.Cleanup(source.Shutdown)
	}
	c, err := client.New(&rest.Config{Host: "http://api", Transport: r.api, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	deployments := informer(r.deployments, &v1alpha1.Deployment{})
	r.api.store = deployments.GetStore()
	namespaces, secretObjects := informer(r.namespaces, &corev1.Namespace{}), informer(r.secrets, &corev1.Secret{})
	configMaps := informer(r.configMaps, &corev1.ConfigMap{})
	resolver := &secrets.Resolver{Store: secretObjects.GetStore(), ConfigMaps: configMaps.GetStore(), Key: []byte("key")}
	r.verdicts = verdicts.New(verdicts.Config{
		Deployments: deployments.GetIndexer(), Namespaces: namespaces.GetStore(), Secrets: secretObjects.GetStore(), ConfigMaps: configMaps.GetStore(), Digests: resolver,
	})
	r.Controller = assigner.New(assigner.Config{
		Recorder: &record.FakeRecorder{},
		Client:   c, Devices: informer(r.devices, &v1alpha1.Device{}), Deployments: deployments,
		Namespaces: namespaces, Secrets: secretObjects, ConfigMaps: configMaps, Verdicts: r.verdicts, Revisions: r.history, Resolver: resolver,
		Buckets: r.buckets, Term: term.Term{Epoch: "e1", Number: 7}, Servers: []string{"tls://a:4222", "tls://b:4222"},
		Nudge: r.nudge, Logger: logger(t),
	})
	r.namespaces.Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	return r
}

// history keeps revisions in memory, and fails when it is told to.
type history struct {
	mu       sync.Mutex
	bodies   map[string][]byte
	err      error
	failures int
	// reads counts those of bodies.
	reads int
	// hang keeps the API from answering until it is closed; begun has a value for each
	// write that hangs.
	hang  chan struct{}
	begun chan struct{}
}

func (h *history) Watch(func(string)) (cache.DoneChecker, error) {
	return listed{}, nil
}

// listed: every revision is listed.
type listed struct{}

func (listed) Name() string { return "revisions" }

func (listed) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

func (h *history) Keep(_ context.Context, _ *v1alpha1.Deployment, hash string, body []byte) error {
	h.mu.Lock()
	hang := h.hang
	h.mu.Unlock()
	if hang != nil {
		h.begun <- struct{}{}
		<-hang
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		h.failures++
		return h.err
	}
	if h.bodies == nil {
		h.bodies = map[string][]byte{}
	}
	h.bodies[hash] = body
	return nil
}

func (h *history) Hashes(*v1alpha1.Deployment) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.bodies))
}

func (h *history) Body(_ context.Context, _ *v1alpha1.Deployment, hash string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	return h.bodies[hash], h.err
}

func (h *history) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures < 2 { // the first one has returned
		return errors.New("has not arrived twice")
	}
	return nil
}

func (h *history) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func informer(source *cachetest.FakeControllerSource, o runtime.Object) cache.SharedIndexInformer {
	lw := &cache.ListWatch{
		ListWithContextFunc:  func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) { return source.List(o) },
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) { return source.Watch(o) },
	}
	return cache.NewSharedIndexInformer(lw, o, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}

func (r *rig) nudge(device string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nudged = append(r.nudged, device)
}

// inform runs an informer.
func (r *rig) inform(i cache.SharedIndexInformer) { background(r.t, i.RunWithContext) }

// run runs the controller.
func (r *rig) run() {
	background(r.t, func(ctx context.Context) {
		if err := r.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			r.t.Errorf("running: %v", err)
		}
	})
}

func (r *rig) startAll() {
	r.inform(r.Devices)
	r.inform(r.Deployments)
	r.inform(r.Namespaces)
	r.inform(r.Secrets)
	r.inform(r.ConfigMaps)
	r.run()
	<-r.Ready()
}

func deviceObject(name, group string) *v1alpha1.Device {
	return &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"group": group}}}
}

func deploymentObject(name, group string) *v1alpha1.Deployment {
	return &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Finalizers: []string{v1alpha1.DeploymentFinalizer}, Generation: 1},
		Spec: v1alpha1.DeploymentSpec{
			TargetSelector: metav1.LabelSelector{MatchLabels: map[string]string{"group": group}},
			Score:          v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{Raw: []byte(`{"services":[{"name":"web","image":"localhost/web:1"}]}`)}},
		},
	}
}

// keys waits until bucket desired-state has exactly these keys.
func (r *rig) keys(want ...string) {
	r.t.Helper()
	brokertest.Eventually(r.t, "keys of bucket desired-state", func() error {
		var got []string
		for key := range brokertest.Content(r.t.Context(), r.t, r.buckets.DesiredState) {
			got = append(got, key)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
}

func (r *rig) put(key, value string) {
	r.t.Helper()
	if _, err := r.buckets.DesiredState.Put(r.t.Context(), key, []byte(value)); err != nil {
		r.t.Fatal(err)
	}
}

// No list, no omission: until every kind of object is known, no manifest is
// answered and no key is removed.
func TestNothingIsOmittedBeforeAllListsAreComplete(t *testing.T) {
	t.Parallel()
	for _, late := range []string{"devices", "deployments", "namespaces", "secrets", "configmaps"} {
		t.Run(late, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.devices.Add(deviceObject("edge-1", "a"))
			r.deployments.Add(deploymentObject("web", "a"))
			r.put("edge-1.shop.gone", `{}`)
			informers := map[string]cache.SharedIndexInformer{"devices": r.Devices, "deployments": r.Deployments, "namespaces": r.Namespaces, "secrets": r.Secrets, "configmaps": r.ConfigMaps}
			last := informers[late]
			delete(informers, late)
			for _, i := range informers {
				r.inform(i)
			}
			r.run()
			for _, i := range informers {
				brokertest.Eventually(t, "the other lists", func() error {
					if !i.HasSynced() {
						return errors.New("not complete")
					}
					return nil
				})
			}
			if _, err := r.Manifest("edge-1"); !errors.Is(err, assignment.ErrNotReady) {
				t.Errorf("manifest: %v, want ErrNotReady", err)
			}
			if _, ok := r.Body("edge-1", "x"); ok {
				t.Error("a body is given away")
			}
			if _, ok := r.EarlierBody(t.Context(), "edge-1", "x"); ok {
				t.Error("a body is given away")
			}
			if err := r.Withdraw(t.Context(), refs[0]); !errors.Is(err, assignment.ErrNotReady) {
				t.Errorf("withdrawing: %v, want ErrNotReady", err)
			}
			r.keys("edge-1.shop.gone")
			r.inform(last)
			<-r.Ready()
			r.keys("edge-1.shop.web")
			m, err := r.Manifest("edge-1")
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Validate(); err != nil || m.Epoch != "e1" || m.Term != 7 || len(m.Entries) != 1 || len(m.Servers) != 2 {
				t.Errorf("manifest is %+v (%v)", m, err)
			}
		})
	}
}

func TestDamagedBucketIsMended(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	r.deployments.Add(deploymentObject("web", "a"))
	cordoned := deviceObject("edge-2", "a")
	cordoned.Spec.Unschedulable = true
	r.devices.Add(cordoned)
	r.put("edge-1.shop.web", "\x00not json")
	r.put("edge-2.shop.web", `{"namespace":"shop","name":"web","type":"PodmanV0","hash":"cut off"}`)
	r.put("edge-9.shop.web", "{}")
	r.put("foreign", "left alone")
	r.startAll()
	r.keys("edge-1.shop.web", "foreign")
	brokertest.Eventually(t, "the value", func() error {
		var e wire.Entry
		value := brokertest.Content(t.Context(), t, r.buckets.DesiredState)["edge-1.shop.web"]
		return errors.Join(json.Unmarshal([]byte(value), &e), e.Validate())
	})
	// What the bucket said about the other device proves nothing.
	r.hold("edge-2", true)
}

func TestTooManyDeploymentsAreRefusedNotCut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	for i := range wire.MaxEntries {
		r.deployments.Add(deploymentObject(fmt.Sprintf("web-%d", i), "a"))
	}
	r.startAll()
	m, err := r.Manifest("edge-1")
	if err != nil || len(m.Entries) != wire.MaxEntries {
		t.Fatalf("the largest manifest: %v", err)
	}
	r.deployments.Add(deploymentObject("one-more", "a"))
	brokertest.Eventually(t, "the refusal", func() error {
		m, err := r.Manifest("edge-1")
		if err == nil {
			return fmt.Errorf("a manifest of %d entries", len(m.Entries))
		}
		if refusal, ok := errors.AsType[*wire.Refusal](err); !ok || refusal.Code != wire.RefusedUnavailable {
			t.Fatalf("error is %v, want a refusal that says to try later", err)
		}
		return nil
	})
}

func TestReportsReachTheStatus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	r.deployments.Add(deploymentObject("web", "a"))
	r.deployments.Add(deploymentObject("api", "a")) // with the same score, so that hashes do not tell them apart
	r.startAll()
	m, err := r.Manifest("edge-1")
	if err != nil {
		t.Fatal(err)
	}
	report := func(key string, s wire.DeploymentState) {
		value, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.buckets.State.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	counts := func(name string, want assignment.Counts) {
		t.Helper()
		brokertest.Eventually(t, "the aggregate of "+name, func() error {
			writes := slices.DeleteFunc(r.api.seen(), func(w write) bool { return w.name != name })
			if len(writes) == 0 {
				return errors.New("nothing is written")
			}
			a := writes[len(writes)-1].status.Aggregate
			got := assignment.Counts{Matched: a.MatchedDeviceCount, Succeeded: a.Succeeded, Failed: a.Failed, Pending: a.Pending, Offline: a.Offline}
			if diff := cmp.Diff(want, got); diff != "" {
				return fmt.Errorf("-want +got:\n%s", diff)
			}
			return nil
		})
	}
	running := wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseRunning, Hash: m.Entries[0].Hash}
	report("state.edge-1.shop.web", running)
	counts("web", assignment.Counts{Matched: 1, Succeeded: 1, Offline: 1})

	// What says another thing than its key, or nothing that can be read, is no report.
	foreign := running
	foreign.Name, foreign.Phase = "api", wire.PhaseFailed
	report("state.edge-1.shop.web", foreign)
	report("state.edge-1.shop.web", wire.DeploymentState{Phase: "Dancing"})
	online := deviceObject("edge-1", "a")
	online.Status.Conditions = []metav1.Condition{{Type: v1alpha1.DeviceConnected, Status: metav1.ConditionTrue}}
	r.devices.Modify(online)
	counts("web", assignment.Counts{Matched: 1, Succeeded: 1})

	if err := r.buckets.State.Purge(t.Context(), "state.edge-1.shop.web"); err != nil {
		t.Fatal(err)
	}
	counts("web", assignment.Counts{Matched: 1, Pending: 1})
	counts("api", assignment.Counts{Matched: 1, Pending: 1})
}

func TestChangesOfObjectsArriveEverywhere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	web := deploymentObject("web", "a")
	r.deployments.Add(web)
	r.startAll()
	r.keys("edge-1.shop.web")

	// The finalizer comes later. Without it an object can vanish at any time.
	api := deploymentObject("api", "a")
	api.Finalizers = nil
	r.deployments.Add(api)
	r.keys("edge-1.shop.api", "edge-1.shop.web")
	r.deployments.Delete(api.DeepCopy())
	r.keys("edge-1.shop.web")

	api = deploymentObject("api", "a")
	r.deployments.Add(api)
	r.keys("edge-1.shop.api", "edge-1.shop.web")

	r.desired.down.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Withdraw(ctx, wire.DeploymentRef{Namespace: "shop", Name: "api"}); !errors.Is(err, context.Canceled) {
		t.Errorf("withdrawing while the bus is down: %v", err)
	}
	r.desired.down.Store(false)
	if err := r.Withdraw(t.Context(), wire.DeploymentRef{Namespace: "shop", Name: "api"}); err != nil {
		t.Fatal(err)
	}
	// No waiting: Withdraw said that the keys are gone.
	if held := brokertest.Content(t.Context(), t, r.buckets.DesiredState); len(held) != 1 {
		t.Errorf("bucket holds %v", held)
	}

	r.deployments.Delete(api.DeepCopy())

	// A namespace that forbids what the score needs makes devices hold it.
	privileged := web.DeepCopy()
	privileged.Generation++
	privileged.Spec.Score.Data.Raw = []byte(`{"services":[{"name":"web","image":"localhost/web:1","volumes":[{"hostPath":"/srv","mountPath":"/srv"}]}]}`)
	r.deployments.Modify(privileged)
	r.hold("edge-1", true)
	r.namespaces.Modify(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{v1alpha1.LabelPrivilege: "privileged"}}})
	r.hold("edge-1", false)

	revoked := deviceObject("edge-1", "a")
	revoked.Generation++
	revoked.Spec.Revoked = true
	r.devices.Modify(revoked)
	r.keys()
	if _, err := r.Manifest("edge-1"); !errors.Is(err, assignment.ErrNotReady) {
		t.Errorf("manifest of a revoked device: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.nudged) == 0 {
		t.Error("the device was never told")
	}
}

// hold waits until the device's only entry is held, or is not.
func (r *rig) hold(device string, want bool) {
	r.t.Helper()
	brokertest.Eventually(r.t, fmt.Sprintf("hold is %v", want), func() error {
		m, err := r.Manifest(device)
		if err != nil {
			return err
		}
		if len(m.Entries) != 1 || m.Entries[0].Hold != want {
			return fmt.Errorf("entries are %+v", m.Entries)
		}
		return nil
	})
}

// A score that names a Secret waits for it, changes with it, and opens it to
// the devices that run the score only.
func TestSecretsFollowTheScore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	r.devices.Add(deviceObject("edge-2", "b"))
	web := deploymentObject("web", "a")
	web.Spec.Score.Data.Raw = []byte(`{"services":[{"name":"web","image":"localhost/web:1","volumes":[{"secretName":"tls","mountPath":"/tls"}]}]}`)
	r.deployments.Add(web)
	r.startAll()
	r.hold("edge-1", true)

	digest := func() string {
		m, err := r.Manifest("edge-1")
		if err != nil {
			t.Fatal(err)
		}
		return m.Entries[0].SecretsDigest
	}
	content := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "tls"}, Data: map[string][]byte{"key": []byte("hidden")}}
	r.secrets.Add(content)
	r.secrets.Add(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "other"}})
	r.hold("edge-1", false)
	before := digest()
	if before == "" || strings.Contains(before, "hidden") {
		t.Errorf("digest is %q", before)
	}
	for _, tc := range []struct {
		device, namespace, name string
		want                    bool
	}{{"edge-1", "shop", "tls", true}, {"edge-2", "shop", "tls", false}, {"edge-1", "shop", "other", false}, {"edge-1", "default", "tls", false}, {"nobody", "shop", "tls", false}} {
		data, told, ok := r.Secret(tc.device, wire.DeploymentRef{Namespace: tc.namespace, Name: "web"}, tc.name)
		if ok != tc.want || ok && (string(data["key"]) != "hidden" || told != before) {
			t.Errorf("%s asks for %s/%s: %v, of %q", tc.device, tc.namespace, tc.name, ok, told)
		}
		// As agents up to 0.1 ask.
		data, told, ok = r.Secret(tc.device, wire.DeploymentRef{Namespace: tc.namespace}, tc.name)
		if ok != tc.want || ok && string(data["key"]) != "hidden" || told != "" {
			t.Errorf("%s asks for %s/%s of no Deployment: %v, of %q", tc.device, tc.namespace, tc.name, ok, told)
		}
	}

	changed := content.DeepCopy()
	changed.Data["key"] = []byte("changed")
	r.secrets.Modify(changed)
	brokertest.Eventually(t, "another digest", func() error {
		if digest() == before {
			return errors.New("it is the same")
		}
		return nil
	})
	held := brokertest.Content(t.Context(), t, r.buckets.DesiredState)
	if strings.Contains(fmt.Sprint(held), "changed") {
		t.Errorf("the bus holds the content: %v", held)
	}
	r.secrets.Delete(changed.DeepCopy())
	r.hold("edge-1", true)

	r.deployments.Delete(web.DeepCopy())
	brokertest.Eventually(t, "nothing is known of the Deployment", func() error {
		if keys := r.verdicts.Needing("shop/tls"); len(keys) > 0 {
			return fmt.Errorf("%v need the Secret", keys)
		}
		return nil
	})
}

// A score is sent once it can be found again; a device gets what it was told before.
func TestAScoreWaitsForItsRevision(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	r.deployments.Add(deploymentObject("web", "a"))
	r.startAll()
	r.keys("edge-1.shop.web")
	hash := func() string {
		m, err := r.Manifest("edge-1")
		if err != nil || len(m.Entries) != 1 {
			t.Fatalf("manifest is %+v (%v)", m, err)
		}
		return m.Entries[0].Hash
	}
	before := hash()
	r.history.fail(errors.New("the disk is full"))
	changed := deploymentObject("web", "a")
	changed.Generation, changed.Spec.Score.Data.Raw = 2, []byte(`{"services":[{"name":"web","image":"localhost/web:2"}]}`)
	r.deployments.Modify(changed)
	brokertest.Eventually(t, "the change", r.history.failed)
	if hash() != before {
		t.Error("a score is sent that nobody can find again")
	}
	r.history.fail(nil)
	brokertest.Eventually(t, "the new score", func() error {
		if hash() == before {
			return errors.New("is not sent")
		}
		return nil
	})
	if _, ok := r.Body("edge-1", hash()); !ok {
		t.Error("the body is not served")
	}
	if _, ok := r.EarlierBody(t.Context(), "edge-1", before); !ok {
		t.Error("the earlier body is not served")
	}
	if _, ok := r.EarlierBody(t.Context(), "edge-2", before); ok {
		t.Error("another device gets the body")
	}
}

// Whoever waits for an API that does not answer, or refuses one revision, is in nobody's
// way, and what was told before is changed at once.
func TestARevisionThatIsNotWrittenKeepsNothingElseWaiting(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	r.deployments.Add(deploymentObject("web", "a"))
	r.startAll()
	r.keys("edge-1.shop.web")
	hang := make(chan struct{})
	answer := sync.OnceFunc(func() { close(hang) })
	t.Cleanup(answer)
	r.history.mu.Lock()
	r.history.hang, r.history.begun = hang, make(chan struct{}, 100)
	r.history.mu.Unlock()
	r.deployments.Add(deploymentObject("api", "a"))
	<-r.history.begun
	r.devices.Add(deviceObject("edge-2", "a"))
	r.keys("edge-1.shop.web", "edge-2.shop.web")
	moved := deploymentObject("web", "b")
	moved.Generation = 2
	r.deployments.Modify(moved)
	r.keys()
	answer()
	r.keys("edge-1.shop.api", "edge-2.shop.api")
}
