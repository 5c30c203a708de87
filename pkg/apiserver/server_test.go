package apiserver_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/test/kube"
)

// start runs an API server on real SQLite in a directory of the test and
// returns its own client, with all rights.
func start(t *testing.T) *rest.Config {
	t.Helper()
	own, _, _ := startServer(t)
	return own
}

// startServer returns the server's own client, one of an administrator, and the
// address of the storage.
func startServer(t *testing.T) (own, administrator *rest.Config, storage string) {
	t.Helper()
	own, administrator, store := startWithStore(t)
	return own, administrator, store.Endpoint
}

// startWithStore is startServer and returns the storage itself.
func startWithStore(t *testing.T) (own, administrator *rest.Config, store *datastore.Datastore) {
	t.Helper()
	api := kube.Start(t)
	return api.Own, api.Administrator, api.Store
}

func TestNamespaceIsEmptiedAndDeleted(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(start(t))
	ctx := t.Context()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "site"}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}}
	if _, err := client.CoreV1().ConfigMaps("site").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w, err := client.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=site"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := client.CoreV1().Namespaces().Delete(ctx, "site", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for e := range w.ResultChan() {
		if e.Type == "DELETED" {
			break
		}
	}
	if _, err := client.CoreV1().ConfigMaps("site").Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("configmap after the namespace: %v", err)
	}
}

// TestWhatIsRefusedAtAdmission: what can never be right is refused before it is
// stored.
func TestWhatIsRefusedAtAdmission(t *testing.T) {
	c := dynamic.NewForConfigOrDie(start(t))
	group := schema.GroupVersion{Group: "fleet.nationtech.io", Version: "v1alpha1"}
	token := func(spec map[string]any) map[string]any {
		spec["secretHash"] = strings.Repeat("0", 64)
		return spec
	}
	labels := func(key string) map[string]any { return token(map[string]any{"labels": map[string]any{key: "v"}}) }
	const server = "the server sets"
	for name, tc := range map[string]struct {
		spec map[string]any
		want string
	}{
		"arch":        {labels("kubernetes.io/arch"), server},
		"os":          {labels("kubernetes.io/os"), server},
		"device id":   {labels("fleet.nationtech.io/device-id"), server},
		"short id":    {labels("device-id"), server},
		"short key":   {token(map[string]any{"allowedLabelKeys": []any{"device-id"}}), server},
		"claim":       {labels("device.fleet.nationtech.io/a"), server},
		"allowed key": {token(map[string]any{"allowedLabelKeys": []any{"kubernetes.io/arch"}}), server},
		"plain label": {labels("site"), ""},
		"plain key":   {token(map[string]any{"allowedLabelKeys": []any{"rack"}}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": group.String(), "kind": "EnrollmentToken", "metadata": map[string]any{"generateName": "a-"}, "spec": tc.spec,
			}}
			for kind, resource := range map[string]string{"EnrollmentToken": "enrollmenttokens", "EnrollmentRequest": "enrollmentrequests"} {
				o := u.DeepCopy()
				o.SetKind(kind)
				if kind == "EnrollmentRequest" {
					spec := o.Object["spec"].(map[string]any)
					spec["keyFingerprint"] = spec["secretHash"]
					delete(spec, "secretHash")
				}
				_, err := c.Resource(group.WithResource(resource)).Create(t.Context(), o, metav1.CreateOptions{})
				if apierrors.IsInvalid(err) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%s: got %v, want %q", kind, err, tc.want)
				}
			}
		})
	}
}

// The keys of a device that was revoked are refused for good, and its Device cannot say otherwise.
// Nothing is final before there is a key.
func TestRevocationIsFinal(t *testing.T) {
	t.Parallel()
	c := dynamic.NewForConfigOrDie(start(t)).Resource(schema.GroupVersionResource{Group: "fleet.nationtech.io", Version: "v1alpha1", Resource: "devices"})
	enrolled := func() map[string]any { return map[string]any{"keyFingerprint": strings.Repeat("0", 64)} }
	for name, tc := range map[string]struct {
		from, to map[string]any
		refused  bool
	}{
		"revoked":                     {map[string]any{"enrollment": enrolled()}, map[string]any{"enrollment": enrolled(), "revoked": true}, false},
		"changed otherwise":           {map[string]any{"enrollment": enrolled(), "revoked": true}, map[string]any{"enrollment": enrolled(), "revoked": true, "onRevoke": "Wipe"}, false},
		"set back":                    {map[string]any{"enrollment": enrolled(), "revoked": true}, map[string]any{"enrollment": enrolled(), "revoked": false}, true},
		"left out":                    {map[string]any{"enrollment": enrolled(), "revoked": true}, map[string]any{"enrollment": enrolled()}, true},
		"set back before it enrolled": {map[string]any{"revoked": true}, map[string]any{"revoked": false}, false},
		"without its key":             {map[string]any{"enrollment": enrolled(), "revoked": true}, map[string]any{}, false},
	} {
		d := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "fleet.nationtech.io/v1alpha1", "kind": "Device", "metadata": map[string]any{"name": strings.ReplaceAll(name, " ", "-")}, "spec": tc.from,
		}}
		d, err := c.Create(t.Context(), d, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		d.Object["spec"] = tc.to
		_, err = c.Update(t.Context(), d, metav1.UpdateOptions{})
		const words = "spec.revoked: Forbidden: a revocation is final, because the device's keys are refused for good: to enroll the hardware again, delete the Device and run fleet-agent enroll --force with a new token"
		if apierrors.IsInvalid(err) != tc.refused || !tc.refused && err != nil || tc.refused && !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Newer clients read events in a group of their own.
func TestEventsInTheirOwnGroup(t *testing.T) {
	_, administrator, _ := startServer(t)
	c := kubernetes.NewForConfigOrDie(administrator)
	w, err := c.EventsV1().Events("default").Watch(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=shop"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, name := range []string{"other", "shop"} {
		e := &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Reason: "Invalid", Message: "no image", Type: "Warning", Count: 2,
			InvolvedObject: corev1.ObjectReference{Kind: "Deployment", Namespace: "default", Name: name}, LastTimestamp: metav1.Now(),
		}
		if _, err := c.CoreV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=shop"})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%d events: %v", len(list.Items), err)
	}
	if seen := <-w.ResultChan(); seen.Type != "ADDED" || seen.Object.(*eventsv1.Event).Note != "no image" {
		t.Errorf("the watch shows %+v", seen)
	}
	one, err := c.EventsV1().Events("default").Get(t.Context(), "shop", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := []any{one.Reason, one.Note, one.Type, one.DeprecatedCount, one.Regarding.Kind, one.Namespace}
	if diff := cmp.Diff([]any{"Invalid", "no image", "Warning", int32(2), "Deployment", "default"}, got); diff != "" {
		t.Errorf("the event (-want +got):\n%s", diff)
	}
	if _, err := c.EventsV1().Events("default").Get(t.Context(), "nosuch", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("one that is not there: %v", err)
	}
	table, err := c.EventsV1().RESTClient().Get().AbsPath("/apis/events.k8s.io/v1/events").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
	if err != nil || !strings.Contains(string(table), `"Last Seen"`) || !strings.Contains(string(table), "Deployment/shop") {
		t.Errorf("the table is %s: %v", table, err)
	}
}

// An event ends after an hour, also from the last time that it happened; nothing else does.
func TestEventsEndAfterAnHour(t *testing.T) {
	t.Parallel()
	_, administrator, storage := startServer(t)
	c := kubernetes.NewForConfigOrDie(administrator)
	store, err := clientv3.New(clientv3.Config{Endpoints: []string{storage}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	lease := func(key string) int64 {
		t.Helper()
		r, err := store.Get(t.Context(), apiserver.StoragePrefix+key)
		if err != nil || len(r.Kvs) != 1 {
			t.Fatalf("reading %s: %d keys, %v", key, len(r.Kvs), err)
		}
		return r.Kvs[0].Lease
	}
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Reason: "Connected", Count: 1, InvolvedObject: corev1.ObjectReference{Kind: "Device", Name: "edge-1", Namespace: "default"}}
	if e, err = c.CoreV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	created := lease("/events/default/a")
	e.Count = 2
	if _, err := c.CoreV1().Events("default").Update(t.Context(), e, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	if _, err := c.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const hour, shared = 3600, 60 // so long events share a lease, which then ends for all of them
	for what, seconds := range map[string]int64{"an event": created, "one that happened again": lease("/events/default/a")} {
		if seconds < hour || seconds > hour+shared {
			t.Errorf("%s ends after %d seconds", what, seconds)
		}
	}
	if seconds := lease("/configmaps/default/a"); seconds != 0 {
		t.Errorf("a ConfigMap ends after %d seconds", seconds)
	}
}
