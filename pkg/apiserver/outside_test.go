package apiserver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/test/wait"
)

// outside asks an API server as an administrator does.
type outside struct {
	*kubernetes.Clientset
	config *rest.Config
}

func newOutside(c *rest.Config) outside { return outside{kubernetes.NewForConfigOrDie(c), c} }

// send sends a body as it is.
func (o outside) send(t *testing.T, method, url, contentType, body string) error {
	t.Helper()
	return o.RESTClient().Verb(method).RequestURI(url).SetHeader("Content-Type", contentType).Body([]byte(body)).Do(t.Context()).Error()
}

// fields are so many fields of an object.
func fields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":"v"`, i)
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}"
}

const (
	configMaps  = "/api/v1/namespaces/default/configmaps"
	jsonContent = "application/json"
)

func configMap(name, data, labels string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"labels":%s},"data":%s}`, name, labels, data)
}

// Objects of extreme size are refused before anything works on them.
func TestLargeObjectsAreRefused(t *testing.T) {
	own, administrator, _ := startServer(t)
	c := newOutside(administrator)
	if err := c.send(t, http.MethodPost, configMaps, jsonContent, configMap("many", fields(3000), "{}")); err != nil {
		t.Fatalf("what is not extreme: %v", err)
	}
	if err := c.send(t, http.MethodPost, configMaps, jsonContent, configMap("long", `{"a":"`+strings.Repeat("x", 900<<10)+`"}`, "{}")); err != nil {
		t.Fatalf("what is not extreme: %v", err)
	}
	protobuf := rest.CopyConfig(administrator)
	protobuf.ContentType = "application/vnd.kubernetes.protobuf"
	data := map[string]string{}
	if err := json.Unmarshal([]byte(fields(50_000)), &data); err != nil {
		t.Fatal(err)
	}
	bomb := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\ndata:\n  a: &a [" + strings.Repeat("x,", 1500) + "x]\n  b: *a\n  c: *a\n  d: *a\n"
	for name, try := range map[string]func() error{
		"100,000 labels": func() error {
			return c.send(t, http.MethodPost, configMaps, jsonContent, configMap("labels", "{}", strings.ReplaceAll(fields(100_000), `"k`, `"label-of-the-object-`)))
		},
		"many labels": func() error {
			return c.send(t, http.MethodPost, configMaps, jsonContent, configMap("labels", "{}", fields(20_000)))
		},
		"much data": func() error {
			return c.send(t, http.MethodPost, configMaps, jsonContent, configMap("data", fields(50_000), "{}"))
		},
		"long data": func() error {
			return c.send(t, http.MethodPost, configMaps, jsonContent, configMap("x", `{"a":"`+strings.Repeat("x", 2<<20)+`"}`, "{}"))
		},
		"YAML aliases": func() error {
			return c.send(t, http.MethodPatch, configMaps+"/bomb?fieldManager=x", string(types.ApplyYAMLPatchType), bomb)
		},
		"an apply": func() error {
			return c.send(t, http.MethodPatch, configMaps+"/apply?fieldManager=x", string(types.ApplyYAMLPatchType), configMap("apply", fields(20_000), "{}"))
		},
		"nested lists": func() error { return c.send(t, http.MethodPost, configMaps, jsonContent, strings.Repeat("[", 100_000)) },
		"a score": func() error {
			return c.send(t, http.MethodPost, "/apis/fleet.nationtech.io/v1alpha1/namespaces/default/deployments", jsonContent, `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Deployment","metadata":{"name":"x"},"spec":{"targetSelector":{},"score":{"type":"Other","data":`+fields(20_000)+`}}}`)
		},
		"protobuf": func() error {
			_, err := newOutside(protobuf).CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Data: data}, metav1.CreateOptions{})
			return err
		},
		"small patches": func() error {
			for i := range 20 {
				patch := strings.ReplaceAll(fields(1000), `"k`, fmt.Sprintf(`"k%d-`, i))
				if err := c.send(t, http.MethodPatch, configMaps+"/many", string(types.MergePatchType), `{"data":`+patch+`}`); err != nil {
					return err
				}
			}
			return nil
		},
		"copies of a patch": func() error {
			var ops []string
			for i := range 100 {
				ops = append(ops, fmt.Sprintf(`{"op":"copy","from":"/data","path":"/copy%d"}`, i))
			}
			return c.send(t, http.MethodPatch, configMaps+"/many", string(types.JSONPatchType), "["+strings.Join(ops, ",")+"]")
		},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			err := try()
			if copied := name == "copies of a patch" && apierrors.IsInvalid(err); !copied && !apierrors.IsRequestEntityTooLargeError(err) {
				t.Errorf("error is %v", err)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("it took %s to refuse it", took)
			}
		})
	}
	// Of the server itself only what would be stored is bounded.
	if _, err := kubernetes.NewForConfigOrDie(own).CoreV1().ConfigMaps("default").Patch(t.Context(), "many", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a small change: %v", err)
	}
}

const (
	definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	schemaEnd   = `{"type":"object"}`
)

func definition(name, schema, versions, more string) string {
	return fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"%[1]ss.attack.example.com"},"spec":{"group":"attack.example.com","scope":"Cluster",
		"names":{"plural":"%[1]ss","singular":%[1]q,"kind":"K%[1]s"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":%[2]s}}%[3]s]%[4]s}}`, name, schema, versions, more)
}

// Definitions that cost too much, or make the server call others, are refused.
func TestHostileDefinitionsAreRefused(t *testing.T) {
	_, administrator, _ := startServer(t)
	c := newOutside(administrator)
	deep, rules, versions := schemaEnd, []string{}, ""
	for range 100 {
		deep = `{"type":"object","properties":{"a":` + deep + `}}`
	}
	for i := range 600 {
		rules = append(rules, fmt.Sprintf(`{"rule":"size(self.a) != %d"}`, i))
	}
	for i := range 11 {
		versions += fmt.Sprintf(`,{"name":"v%d","served":true,"storage":false,"schema":{"openAPIV3Schema":%s}}`, i+2, schemaEnd)
	}
	wide := func(n int) string {
		var fields []string
		for i := range n {
			fields = append(fields, fmt.Sprintf(`"f%d":{"type":"string"}`, i))
		}
		return `{"type":"object","properties":{` + strings.Join(fields, ",") + `}}`
	}
	hook := func(client string) string {
		return `,"conversion":{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"],"clientConfig":` + client + `}}`
	}
	for name, tc := range map[string]struct{ doc, says string }{
		"webhook at this machine":   {definition("a", schemaEnd, "", hook(`{"url":"https://127.0.0.1:1/x"}`)), "calls no webhooks"},
		"webhook at the cloud":      {definition("b", schemaEnd, "", hook(`{"url":"https://169.254.169.254/latest"}`)), "calls no webhooks"},
		"webhook at the API":        {definition("c", schemaEnd, "", hook(`{"url":"https://kubernetes.default.svc:443/api"}`)), "calls no webhooks"},
		"webhook of a service":      {definition("d", schemaEnd, "", hook(`{"service":{"namespace":"default","name":"x"}}`)), "calls no webhooks"},
		"deep":                      {definition("e", deep, "", ""), "levels in its schema"},
		"rules":                     {definition("f", `{"type":"object","properties":{"a":{"type":"string","maxLength":10,"x-kubernetes-validations":[`+strings.ReplaceAll(strings.Join(rules, ","), "self.a", "self")+`]}}}`, "", ""), "validation rules"},
		"versions":                  {definition("g", schemaEnd, versions, ""), "spec.versions"},
		"wide":                      {definition("h", wide(13_000), "", ""), "fields in its schemas"},
		"costly rule":               {definition("i", `{"type":"object","properties":{"a":{"type":"array","items":{"type":"string"},"x-kubernetes-validations":[{"rule":"self.all(x, self.all(y, self.all(z, x == y || y == z)))"}]}}}`, "", ""), "estimated rule cost"},
		"as wide as ApplicationSet": {definition("k", wide(10_000), "", ""), ""},
		"harmless":                  {definition("j", `{"type":"object","properties":{"a":{"type":"string","x-kubernetes-validations":[{"rule":"self != 'b'"}]}}}`, "", ""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.send(t, http.MethodPost, definitions, jsonContent, tc.doc)
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("error is %.300v, want one that says %q", err, tc.says)
			}
		})
	}
	// Many that are each within the bounds.
	long := `{"type":"object","description":"` + strings.Repeat("x", 1<<20) + `"}`
	const enough = 10
	for i := 0; ; i++ {
		err := c.send(t, http.MethodPost, definitions, jsonContent, definition(fmt.Sprintf("n%d", i), long, "", ""))
		if err != nil && strings.Contains(err.Error(), "bytes together") {
			break
		}
		if err != nil || i > enough {
			t.Errorf("definition %d of a megabyte: %.200v", i, err)
			break
		}
		time.Sleep(time.Second) // what was stored a second ago is known
	}
	err := c.send(t, http.MethodPatch, definitions+"/js.attack.example.com", string(types.MergePatchType), `{"spec":{"conversion":{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"],"clientConfig":{"url":"https://127.0.0.1:1/x"}}}}}`)
	if err == nil || !strings.Contains(err.Error(), "calls no webhooks") {
		t.Errorf("a webhook that is added later: %v", err)
	}
}

// A definition of before this was refused calls nobody either.
func TestStoredWebhooksAreNotCalled(t *testing.T) {
	_, administrator, storage := startServer(t)
	c := newOutside(administrator)
	var called atomic.Int64
	hook := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		called.Add(1)
	}))
	defer hook.Close()
	hook.Config.ErrorLog = nil
	second := `,{"name":"v2","served":true,"storage":false,"schema":{"openAPIV3Schema":{"type":"object"}}}`
	if err := c.send(t, http.MethodPost, definitions, jsonContent, definition("old", schemaEnd, second, "")); err != nil {
		t.Fatal(err)
	}
	const path = "/apis/attack.example.com/%s/olds"
	var err error
	for range 200 {
		if err = c.send(t, http.MethodPost, fmt.Sprintf(path, "v1"), jsonContent, `{"apiVersion":"attack.example.com/v1","kind":"Kold","metadata":{"name":"a"}}`); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("an object of the new kind: %v", err)
	}
	rewrite(t, storage, "/registry/apiextensions.k8s.io/customresourcedefinitions/olds.attack.example.com", `"conversion":{"strategy":"None"}`,
		fmt.Sprintf(`"conversion":{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"],"clientConfig":{"url":%q}}}`, hook.URL))
	for range 200 {
		if err = c.send(t, http.MethodGet, fmt.Sprintf(path, "v2"), jsonContent, ""); err != nil {
			break // the definition of the storage is served
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err == nil || !strings.Contains(err.Error(), "calls no webhooks") {
		t.Errorf("objects that need a conversion: %v", err)
	}
	if err := c.send(t, http.MethodGet, fmt.Sprintf(path, "v1"), jsonContent, ""); err != nil {
		t.Errorf("objects that need none: %v", err)
	}
	if called.Load() != 0 {
		t.Error("the webhook was called")
	}
}

// rewrite changes what is stored, past the API.
func rewrite(t *testing.T, endpoint, key, old, present string) {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Get(t.Context(), key)
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("reading %s: %v", key, err)
	}
	kv := got.Kvs[0]
	value := strings.Replace(string(kv.Value), old, present, 1)
	if value == string(kv.Value) {
		t.Fatalf("%s has no %s: %s", key, old, kv.Value)
	}
	_, err = c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		t.Fatal(err)
	}
}

// An object is not larger than etcd allows, whatever it grows by. What would be too
// large is refused at once.
func TestObjectsHaveALimit(t *testing.T) {
	_, administrator, _ := startServer(t)
	c := newOutside(administrator)
	if err := c.send(t, http.MethodPost, definitions, jsonContent, definition("large", `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, "", "")); err != nil {
		t.Fatal(err)
	}
	const objects = "/apis/attack.example.com/v1/larges"
	long := func(kind string, n, each int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%s%d":%q`, kind, i, strings.Repeat("x", each))
		}
		return b.String()[1:]
	}
	create := func(name, data string) error {
		return c.send(t, http.MethodPost, objects, jsonContent, fmt.Sprintf(`{"apiVersion":"attack.example.com/v1","kind":"Klarge","metadata":{"name":%q},"data":{%s}}`, name, data))
	}
	wait.For(t, "serving the definition", time.Minute, 50*time.Millisecond, func() error { return create("a", long("a", 1200, 1000)) })
	for name, try := range map[string]func() error{
		"a merge": func() error {
			return c.send(t, http.MethodPatch, objects+"/a", string(types.MergePatchType), `{"data":{`+long("b", 1200, 1000)+`}}`)
		},
		"an apply": func() error {
			return c.send(t, http.MethodPatch, objects+"/a?fieldManager=x", string(types.ApplyYAMLPatchType), `{"apiVersion":"attack.example.com/v1","kind":"Klarge","metadata":{"name":"a"},"data":{`+long("c", 1200, 1000)+`}}`)
		},
		"many fields": func() error {
			for i := range 20 {
				if err := c.send(t, http.MethodPatch, objects+"/a", string(types.MergePatchType), `{"data":{`+long(fmt.Sprint("d", i, "-"), 2000, 200)+`}}`); err != nil {
					return err
				}
			}
			return nil
		},
		"copies": func() error {
			return c.send(t, http.MethodPatch, objects+"/a", string(types.JSONPatchType), `[{"op":"copy","from":"/data","path":"/copy"}]`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			err := try()
			if copied := name == "copies" && apierrors.IsInvalid(err); !copied && !apierrors.IsRequestEntityTooLargeError(err) {
				t.Errorf("error is %.300v", err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %s to refuse it", took)
			}
		})
	}
}

// Profiles are for administrators.
func TestProfiles(t *testing.T) {
	_, administrator, _ := startServer(t)
	profile := func(c *rest.Config) (string, error) {
		said, err := newOutside(c).RESTClient().Get().AbsPath("/debug/pprof/goroutine").Param("debug", "1").DoRaw(t.Context())
		return string(said), err
	}
	if said, err := profile(administrator); err != nil || !strings.Contains(said, "goroutine profile:") {
		t.Errorf("an administrator gets %.100q, %v", said, err)
	}
	if said, err := profile(rest.AnonymousClientConfig(administrator)); !apierrors.IsUnauthorized(err) && !apierrors.IsForbidden(err) {
		t.Errorf("a stranger gets %.100q, %v", said, err)
	}
}
