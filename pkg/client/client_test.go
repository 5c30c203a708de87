package client_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
)

// transport answers every request with the body of the request, and keeps it.
type transport struct {
	request *http.Request
	body    []byte
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.request = r
	if r.Body != nil {
		var err error
		if t.body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	return &http.Response{
		StatusCode: http.StatusOK, Request: r, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(string(t.body))),
	}, nil
}

func newClient(t testing.TB) (*client.Client, *transport) {
	t.Helper()
	rt := &transport{}
	c, err := client.New(&rest.Config{Host: "http://api", Transport: rt})
	if err != nil {
		t.Fatal(err)
	}
	return c, rt
}

func TestApplySendsTheFieldsAndNothingElse(t *testing.T) {
	t.Parallel()
	c, rt := newClient(t)
	d, err := client.Apply(t.Context(), c.Deployments("shop"), "me", "Deployment", "web", map[string]any{
		"metadata": map[string]any{"labels": map[string]string{"a": "b"}},
		"status":   map[string]any{"observedGeneration": 3},
	}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "web" || d.Status.ObservedGeneration != 3 {
		t.Errorf("the answer is %+v", d)
	}
	var got map[string]any
	if err := json.Unmarshal(rt.body, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"apiVersion": "fleet.nationtech.io/v1alpha1", "kind": "Deployment",
		"metadata": map[string]any{"name": "web", "labels": map[string]any{"a": "b"}}, "status": map[string]any{"observedGeneration": 3.0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
	r := rt.request
	if r.Method != http.MethodPatch || r.URL.Path != "/apis/fleet.nationtech.io/v1alpha1/namespaces/shop/deployments/web/status" ||
		r.Header.Get("Content-Type") != "application/apply-patch+yaml" || r.URL.Query().Get("fieldManager") != "me" || r.URL.Query().Get("force") != "true" {
		t.Errorf("request is %s %s (%s)", r.Method, r.URL, r.Header.Get("Content-Type"))
	}
}

func TestKindsHaveTheirPaths(t *testing.T) {
	t.Parallel()
	c, rt := newClient(t)
	rt.body = []byte(`{}`)
	for path, get := range map[string]func() error{
		"/namespaces/shop/deployments/x": func() error { _, err := c.Deployments("shop").Get(t.Context(), "x", metav1.GetOptions{}); return err },
		"/devices/x":                     func() error { _, err := c.Devices().Get(t.Context(), "x", metav1.GetOptions{}); return err },
		"/enrollmenttokens/x":            func() error { _, err := c.EnrollmentTokens().Get(t.Context(), "x", metav1.GetOptions{}); return err },
		"/enrollmentrequests/x":          func() error { _, err := c.EnrollmentRequests().Get(t.Context(), "x", metav1.GetOptions{}); return err },
	} {
		if err := get(); err != nil || rt.request.URL.Path != "/apis/fleet.nationtech.io/v1alpha1"+path {
			t.Errorf("asked for %s (%v), want %s", rt.request.URL.Path, err, path)
		}
	}
}

func TestIgnoreNotFound(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	gone := apierrors.NewNotFound(schema.GroupResource{Resource: "devices"}, "x")
	if client.IgnoreNotFound(gone) != nil || client.IgnoreNotFound(nil) != nil || !errors.Is(client.IgnoreNotFound(other), other) {
		t.Error("the wrong error is ignored")
	}
}

func TestWhoSetTheScore(t *testing.T) {
	t.Parallel()
	at := func(second int64) *metav1.Time { return &metav1.Time{Time: time.Unix(second, 0)} }
	score, labels := metav1.NewFieldsV1(`{"f:spec":{"f:score":{"f:data":{}}}}`), metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{}}}`)
	for name, tc := range map[string]struct {
		fields []metav1.ManagedFieldsEntry
		want   string
	}{
		"nobody":           {nil, ""},
		"one":              {[]metav1.ManagedFieldsEntry{{Manager: "helm", FieldsV1: score, Time: at(1)}, {Manager: "kubectl-label", FieldsV1: labels, Time: at(2)}}, "helm"},
		"the last":         {[]metav1.ManagedFieldsEntry{{Manager: "kubectl-edit", FieldsV1: score, Time: at(2)}, {Manager: "helm", FieldsV1: score, Time: at(1)}}, "kubectl-edit"},
		"a status":         {[]metav1.ManagedFieldsEntry{{Manager: "other", FieldsV1: score, Subresource: "status"}}, ""},
		"one without time": {[]metav1.ManagedFieldsEntry{{Manager: "old", FieldsV1: score}}, "old"},
		"garbage":          {[]metav1.ManagedFieldsEntry{{Manager: "odd", FieldsV1: metav1.NewFieldsV1(`{`)}}, ""},
		"of an informer":   {[]metav1.ManagedFieldsEntry{{Manager: "helm"}}, "helm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := client.ScoreManager(&v1alpha1.Deployment{ObjectMeta: metav1.ObjectMeta{ManagedFields: tc.fields}}); got != tc.want {
				t.Errorf("it is %q, want %q", got, tc.want)
			}
		})
	}
}

func TestOnlyStoredDevicesAreDecoded(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"encrypted":       "k8s:enc:aesgcm:v1:key:xyz",
		"cut":             `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Device","metadata":{"name":"a"`,
		"another version": `{"apiVersion":"fleet.nationtech.io/v1beta1","kind":"Device","metadata":{"name":"a"}}`,
		"another kind":    `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Deployment","metadata":{"name":"a"}}`,
		"another type":    `{"apiVersion":"fleet.nationtech.io/v1alpha1","kind":"Device","metadata":{"name":"a"},"spec":{"revoked":"yes"}}`,
		"empty":           "",
	} {
		if d, err := client.DecodeStoredDevice(1, []byte(data)); err == nil {
			t.Errorf("%s: it is %v", name, d)
		}
	}
}
