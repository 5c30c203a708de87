package deployment_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	cachetest "k8s.io/client-go/tools/cache/testing"
	"k8s.io/client-go/tools/record"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/controllers/deployment"
	"fleet.nationtech.io/fleet/pkg/controllers/secrets"
	"fleet.nationtech.io/fleet/pkg/controllers/verdicts"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api notes what is written and answers with it.
type api struct {
	status int // 200 when zero
	writes []write
}

type write struct {
	method, path string
	object       v1alpha1.Deployment
}

// RoundTrip implements http.RoundTripper.
func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	w := write{method: r.Method, path: r.URL.Path}
	if err := json.Unmarshal(body, &w.object); err != nil {
		return nil, err
	}
	a.writes = append(a.writes, w)
	answer := httptest.NewRecorder()
	answer.Header().Set("Content-Type", "application/json")
	if a.status != 0 {
		answer.WriteHeader(a.status)
		body, _ = json.Marshal(metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: int32(a.status)})
	}
	_, _ = answer.Write(body)
	return answer.Result(), nil
}

// withdrawer answers like the assigner.
type withdrawer struct {
	asked []wire.DeploymentRef
	// hangs: the bus is down.
	hangs bool
	err   error
}

func (w *withdrawer) Withdraw(ctx context.Context, ref wire.DeploymentRef) error {
	w.asked = append(w.asked, ref)
	if w.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return w.err
}

type rig struct {
	*deployment.Controller
	t          testing.TB
	api        *api
	withdrawer *withdrawer
	events     chan string
	// sources are what the informers list, for tests that run them.
	sources map[cache.SharedIndexInformer]*cachetest.FakeControllerSource
}

const score = `{"services":[{"name":"web","image":"localhost/web:1"}]}`

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, api: &api{}, withdrawer: &withdrawer{}, sources: map[cache.SharedIndexInformer]*cachetest.FakeControllerSource{}}
	c, err := client.New(&rest.Config{Host: "http://api", Transport: r.api})
	if err != nil {
		t.Fatal(err)
	}
	recorder := record.NewFakeRecorder(10)
	r.events = recorder.Events
	informer := func(o runtime.Object) cache.SharedIndexInformer {
		source := cachetest.NewFakeControllerSource()
		t.Cleanup(source.Shutdown)
		i := cache.NewSharedIndexInformer(&cache.ListWatch{
			ListWithContextFunc:  func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) { return source.List(o) },
			WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) { return source.Watch(o) },
		}, o, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		r.sources[i] = source
		return i
	}
	secretObjects, configMaps := informer(&corev1.Secret{}), informer(&corev1.ConfigMap{})
	deployments, namespaces := informer(&v1alpha1.Deployment{}), informer(&corev1.Namespace{})
	r.Controller = &deployment.Controller{
		Client: c, Deployments: deployments, Namespaces: namespaces, Secrets: secretObjects, ConfigMaps: configMaps,
		Verdicts: verdicts.New(verdicts.Config{
			Deployments: deployments.GetIndexer(), Namespaces: namespaces.GetStore(), Secrets: secretObjects.GetStore(), ConfigMaps: configMaps.GetStore(),
			Digests: &secrets.Resolver{Store: secretObjects.GetStore(), ConfigMaps: configMaps.GetStore(), Key: []byte("key")},
		}),
		Withdrawer: r.withdrawer, Recorder: recorder, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	return r
}

// put makes the controller see a Deployment.
func (r *rig) put(change func(*v1alpha1.Deployment)) {
	r.t.Helper()
	d := &v1alpha1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Generation: 2, Finalizers: []string{"other", v1alpha1.DeploymentFinalizer}},
		Spec:       v1alpha1.DeploymentSpec{Score: v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{Raw: []byte(score)}}},
	}
	change(d)
	if err := r.Deployments.GetStore().Add(d); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) reconcile() error { return r.Reconcile(r.t.Context(), "shop/web") }

func deleting(d *v1alpha1.Deployment) {
	now := metav1.Now()
	d.DeletionTimestamp = &now
}

// finalizers checks that the only write leaves these.
func (r *rig) finalizers(want ...string) {
	r.t.Helper()
	if len(r.api.writes) != 1 || r.api.writes[0].method != http.MethodPut {
		r.t.Fatalf("written: %+v", r.api.writes)
	}
	if diff := cmp.Diff(want, r.api.writes[0].object.Finalizers); diff != "" {
		r.t.Errorf("finalizers (-want +got):\n%s", diff)
	}
}

func TestFinalizerComesFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.put(func(d *v1alpha1.Deployment) { d.Finalizers = []string{"other"} })
	if err := r.reconcile(); err != nil {
		t.Fatal(err)
	}
	r.finalizers("other", v1alpha1.DeploymentFinalizer)
}

func TestKeysGoBeforeTheObject(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		withdrawer withdrawer
		goes       bool
	}{
		"the keys are gone":        {withdrawer{}, true},
		"the bus is down":          {withdrawer{hangs: true}, true}, // the next comparison sweeps the keys
		"nobody can take them yet": {withdrawer{err: errors.New("not ready")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				*r.withdrawer = tc.withdrawer
				r.put(deleting)
				began := time.Now()
				err := r.reconcile()
				if diff := cmp.Diff([]wire.DeploymentRef{{Namespace: "shop", Name: "web"}}, r.withdrawer.asked); diff != "" {
					t.Errorf("withdrawn (-want +got):\n%s", diff)
				}
				if !tc.goes {
					if !errors.Is(err, tc.withdrawer.err) || len(r.api.writes) > 0 {
						t.Errorf("error %v, written: %+v", err, r.api.writes)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("it waited for %s", took)
				}
				r.finalizers("other")
			})
		})
	}
}

func TestNothingToDo(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*rig){
		"unknown":               func(*rig) {},
		"deleted, no finalizer": func(r *rig) { r.put(func(d *v1alpha1.Deployment) { deleting(d); d.Finalizers = []string{"other"} }) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			prepare(r)
			if err := r.reconcile(); err != nil || len(r.api.writes)+len(r.withdrawer.asked) > 0 {
				t.Errorf("error %v, written: %+v", err, r.api.writes)
			}
		})
	}
}

func TestVerdictIsShownOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		data   string
		status metav1.ConditionStatus
		reason string
		event  string
	}{
		"accepted": {score, metav1.ConditionTrue, v1alpha1.ReasonValid, "Normal Accepted"},
		"refused":  {`{"services":[{"name":"web","image":"localhost/web:1","imagePolicy":"x"}]}`, metav1.ConditionFalse, v1alpha1.ReasonInvalid, "Warning Invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			change := func(d *v1alpha1.Deployment) { d.Spec.Score.Data.Raw = []byte(tc.data) }
			r.put(change)
			if err := r.reconcile(); err != nil {
				t.Fatal(err)
			}
			if len(r.api.writes) != 1 || !strings.HasSuffix(r.api.writes[0].path, "/status") {
				t.Fatalf("written: %+v", r.api.writes)
			}
			written := r.api.writes[0].object.Status
			c := meta.FindStatusCondition(written.Conditions, v1alpha1.DeploymentAccepted)
			if len(written.Conditions) != 1 || c == nil || c.Status != tc.status || c.Reason != tc.reason || c.ObservedGeneration != 2 {
				t.Errorf("conditions are %+v", written.Conditions)
			}
			if n := len(r.events); n != 1 {
				t.Errorf("%d events, want 1", n)
			} else if e := <-r.events; !strings.HasPrefix(e, tc.event) {
				t.Errorf("event is %q, want %s", e, tc.event)
			}
			r.put(func(d *v1alpha1.Deployment) { change(d); d.Status = written })
			if err := r.reconcile(); err != nil || len(r.api.writes) != 1 {
				t.Errorf("the same verdict is written again: %v", err)
			}
		})
	}
}

func TestObjectThatIsGoneMeanwhileIsNoError(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*v1alpha1.Deployment){
		"adding the finalizer": func(d *v1alpha1.Deployment) { d.Finalizers = nil }, "removing it": deleting, "showing the verdict": func(*v1alpha1.Deployment) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.api.status = http.StatusNotFound
			r.put(change)
			if err := r.reconcile(); err != nil || len(r.api.writes) != 1 {
				t.Errorf("error %v, written: %+v", err, r.api.writes)
			}
		})
	}
}

// What others write to a status is no work. What this controller shows is, in case
// somebody else wrote it.
func TestWorkAfterAnUpdate(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*v1alpha1.Deployment)
		want   bool
	}{
		"the aggregate": {func(d *v1alpha1.Deployment) { d.Status.Aggregate = &v1alpha1.Aggregate{MatchedDeviceCount: 1} }, false},
		"another condition": {func(d *v1alpha1.Deployment) {
			d.Status.Conditions = append(d.Status.Conditions, metav1.Condition{Type: v1alpha1.DeploymentAvailable})
		}, false},
		"the verdict":   {func(d *v1alpha1.Deployment) { d.Status.Conditions = nil }, true},
		"the spec":      {func(d *v1alpha1.Deployment) { d.Generation++ }, true},
		"the finalizer": {func(d *v1alpha1.Deployment) { d.Finalizers = []string{v1alpha1.DeploymentFinalizer} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old := &v1alpha1.Deployment{Status: v1alpha1.DeploymentStatus{Conditions: []metav1.Condition{{Type: v1alpha1.DeploymentAccepted, Status: metav1.ConditionTrue}}}}
			changed := old.DeepCopy()
			tc.change(changed)
			if got := deployment.Differs(old, changed); got != tc.want {
				t.Errorf("differs: %v, want %v", got, tc.want)
			}
		})
	}
}

// The controller works once it knows what decides, and then when that changes.
func TestWorkFollowsWhatDecides(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		start := func(run func(context.Context)) { running.Go(func() { run(ctx) }) }
		// verdicts checks how many were written, and the last.
		verdicts := func(n int, last metav1.ConditionStatus) {
			t.Helper()
			time.Sleep(time.Minute)
			synctest.Wait()
			if len(r.api.writes) != n {
				t.Fatalf("%d writes, want %d: %+v", len(r.api.writes), n, r.api.writes)
			}
			if n > 0 && r.api.writes[n-1].object.Status.Conditions[0].Status != last {
				t.Errorf("the last verdict is %+v, want %s", r.api.writes[n-1].object.Status.Conditions, last)
			}
		}
		d := &v1alpha1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Generation: 1, Finalizers: []string{v1alpha1.DeploymentFinalizer}},
			Spec: v1alpha1.DeploymentSpec{Score: v1alpha1.Score{Type: "PodmanV0", Data: runtime.RawExtension{
				Raw: []byte(`{"services":[{"name":"web","image":"localhost/web:1","volumes":[{"hostPath":"/srv","mountPath":"/srv"},{"secretName":"tls","mountPath":"/tls"}]}]}`),
			}}},
		}
		tls := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "tls"}}
		shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{v1alpha1.LabelPrivilege: "privileged"}}}
		r.sources[r.Deployments].Add(d)
		r.sources[r.Secrets].Add(tls)
		start(func(ctx context.Context) { _ = r.Run(ctx) })
		start(r.Deployments.RunWithContext)
		start(r.Namespaces.RunWithContext)
		start(r.Secrets.RunWithContext)
		verdicts(0, "") // a ConfigMap may be there that is not listed yet
		start(r.ConfigMaps.RunWithContext)
		verdicts(1, metav1.ConditionFalse) // the namespace allows less
		shown := func() {
			d = d.DeepCopy()
			d.Status.Conditions = r.api.writes[len(r.api.writes)-1].object.Status.Conditions
			r.sources[r.Deployments].Modify(d)
			time.Sleep(time.Minute)
		}
		shown()
		r.sources[r.Namespaces].Add(shop)
		verdicts(2, metav1.ConditionTrue)
		shown()
		r.sources[r.Secrets].Delete(tls)
		verdicts(3, metav1.ConditionFalse)
		shown()
		r.sources[r.Secrets].Add(tls)
		verdicts(4, metav1.ConditionTrue)
		shown()
		d = d.DeepCopy() // others write their part of the status
		d.Status.Aggregate = &v1alpha1.Aggregate{MatchedDeviceCount: 1}
		r.sources[r.Deployments].Modify(d)
		verdicts(4, metav1.ConditionTrue)
		d = d.DeepCopy() // and somebody this one's
		d.Status.Conditions = nil
		r.sources[r.Deployments].Modify(d)
		verdicts(5, metav1.ConditionTrue)
	})
}
