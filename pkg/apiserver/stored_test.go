package apiserver_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/apis/crds"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/test/wait"
)

// storedList reads the Devices as the server does at its start.
func storedList(t *testing.T, store *datastore.Datastore) *metav1.List {
	t.Helper()
	list := &metav1.List{}
	revision, err := store.Rows(t.Context(), apiserver.StoragePrefix+"/"+v1alpha1.GroupName+"/devices/", func(r datastore.Row) error {
		d, err := client.DecodeStoredDevice(r.Revision, r.Value)
		list.Items = append(list.Items, runtime.RawExtension{Object: d})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	list.ResourceVersion = strconv.FormatInt(revision, 10)
	return list
}

// What is read from the store is what the API answers, defaults included.
func TestStoredDevicesAreThoseOfTheAPI(t *testing.T) {
	t.Parallel()
	own, _, store := startWithStore(t)
	api, err := client.New(own)
	if err != nil {
		t.Fatal(err)
	}
	raw := newOutside(own)
	for _, doc := range []string{
		`{"metadata":{"name":"bare"}}`,
		`{"metadata":{"name":"empty"},"spec":{}}`,
		`{"metadata":{"name":"null"},"spec":{"onRevoke":null,"inventory":null,"allowedNamespaces":[]}}`,
		`{"metadata":{"name":"full","labels":{"site":"a"},"annotations":{"a":"\u003cb\u003e \"c\" ü"},"finalizers":["example.com/a"]},
		  "spec":{"unschedulable":true,"onRevoke":"Wipe","allowedNamespaces":["shop"],"inventory":{"hostname":"h","cpuCores":4,"memoryMiB":4096,"addresses":["192.0.2.1"]},
		  "enrollment":{"keyFingerprint":"` + strings.Repeat("a", 64) + `","token":"t","tokenUse":3,"enrolledAt":"2026-11-29T10:11:12Z"},"unknown":{"a":1}}}`,
		`{"metadata":{"name":"with-status"}}`,
		`{"metadata":{"name":"empty-status"}}`,
		`{"metadata":{"name":"deleted"}}`,
	} {
		body := strings.Replace(doc, "{", `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Device",`, 1)
		if err := raw.send(t, http.MethodPost, "/apis/fleet.nationtech.io/v1alpha1/devices", "application/json", body); err != nil {
			t.Fatal(doc, err)
		}
	}
	for name, status := range map[string]string{
		"with-status": `{"status":{"observedGeneration":1,"lastSeen":"2026-11-29T10:11:12Z","capabilities":["a","b"],"session":"0123456789ab",
		  "conditions":[{"type":"Ready","status":"True","reason":"R","message":"m","lastTransitionTime":"2026-11-29T10:11:12Z"}]}}`,
		"empty-status": `{"status":{"observedGeneration":null,"session":"0123456789ab"}}`,
	} {
		if _, err := api.Devices().Patch(t.Context(), name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	if err := api.Devices().Delete(t.Context(), "deleted", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// An earlier version had no default of this.
	rewrite(t, store.Endpoint, apiserver.StoragePrefix+"/"+v1alpha1.GroupName+"/devices/empty", `"onRevoke":"Keep"`, "")

	answer, err := api.Devices().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]v1alpha1.Device{}
	for _, d := range answer.Items {
		d.ManagedFields = nil
		want[d.Name] = d
	}
	got := map[string]v1alpha1.Device{}
	list := storedList(t, store)
	for _, i := range list.Items {
		d := i.Object.(*v1alpha1.Device)
		got[d.Name] = *d
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the store (+) is not what the API answers (-):\n%s", diff)
	}
	if list.ResourceVersion != answer.ResourceVersion {
		t.Errorf("the revision is %s, want %s", list.ResourceVersion, answer.ResourceVersion)
	}
}

// lists counts the requests of a client for everything there is.
type lists struct {
	next http.RoundTripper

	mu   sync.Mutex // guards urls
	urls []string
}

// RoundTrip implements http.RoundTripper.
func (l *lists) RoundTrip(r *http.Request) (*http.Response, error) {
	if q := r.URL.Query(); !q.Has("watch") || q.Has("sendInitialEvents") {
		l.mu.Lock()
		l.urls = append(l.urls, r.URL.String())
		l.mu.Unlock()
	}
	return l.next.RoundTrip(r)
}

func (l *lists) seen() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.urls)
}

// An informer that begins with a list of the store misses nothing that happened since,
// and asks the API for no other.
func TestInformerBeginsWithTheStore(t *testing.T) {
	t.Parallel()
	own, _, store := startWithStore(t)
	counted := &lists{}
	own.Wrap(func(next http.RoundTripper) http.RoundTripper { counted.next = next; return counted })
	api, err := client.New(own)
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string) {
		t.Helper()
		if _, err := api.Devices().Create(t.Context(), &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("stays")
	create("goes")
	create("changes")
	first := storedList(t, store)
	create("comes")
	if err := api.Devices().Delete(t.Context(), "goes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Devices().Patch(t.Context(), "changes", types.MergePatchType, []byte(`{"spec":{"revoked":true}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	before := len(counted.seen())

	devices := func(first client.FirstList) func() error {
		informer := api.DeviceInformer(first)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { informer.RunWithContext(ctx) })
		t.Cleanup(func() { cancel(); running.Wait() })
		return func() error {
			keys := informer.GetStore().ListKeys()
			slices.Sort(keys)
			if want := []string{"changes", "comes", "stays"}; !slices.Equal(keys, want) {
				return errors.New(cmp.Diff(want, keys))
			}
			if o, _, _ := informer.GetStore().GetByKey("changes"); !o.(*v1alpha1.Device).Spec.Revoked {
				return errors.New("a change was missed")
			}
			return nil
		}
	}
	wait.For(t, "the informer to have what there is", 10*time.Second, 10*time.Millisecond, devices(func(context.Context) (*metav1.List, error) { return first, nil }))
	if seen := counted.seen()[before:]; len(seen) > 0 {
		t.Errorf("the API was asked for everything: %v", seen)
	}
	wait.For(t, "the informer to have what there is", 10*time.Second, 10*time.Millisecond, devices(func(context.Context) (*metav1.List, error) { return nil, errors.New("encrypted") }))
	wait.For(t, "the informer to have what there is", 10*time.Second, 10*time.Millisecond, devices(nil))
}

// client.DecodeStoredDevice has to know each default.
func TestDefaultsOfDevicesAreKnown(t *testing.T) {
	t.Parallel()
	var defaults []string
	for _, doc := range crds.Documents() {
		var d apiextensionsv1.CustomResourceDefinition
		if err := yaml.Unmarshal(doc, &d); err != nil {
			t.Fatal(err)
		}
		if d.Spec.Names.Kind != "Device" {
			continue
		}
		if len(d.Spec.Versions) != 1 {
			t.Error("stored Devices may be of several versions")
		}
		for _, v := range d.Spec.Versions {
			defaults = append(defaults, defaultsIn(*v.Schema.OpenAPIV3Schema, "")...)
		}
	}
	slices.Sort(defaults)
	if diff := cmp.Diff([]string{".spec.onRevoke", ".status"}, defaults); diff != "" {
		t.Errorf("teach client.DecodeStoredDevice, then this test:\n%s", diff)
	}
}

// defaultsIn are the paths of what has a default.
func defaultsIn(s apiextensionsv1.JSONSchemaProps, path string) (found []string) {
	if s.Default != nil {
		found = append(found, path)
	}
	for name, property := range s.Properties {
		found = append(found, defaultsIn(property, path+"."+name)...)
	}
	if s.Items != nil && s.Items.Schema != nil {
		found = append(found, defaultsIn(*s.Items.Schema, path+"[]")...)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		found = append(found, defaultsIn(*s.AdditionalProperties.Schema, path+"[*]")...)
	}
	return found
}
