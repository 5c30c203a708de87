package apiserver_test

import (
	"net/http"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// What the server needs cannot be taken away, whatever the request looks like.
func TestDefinitionsOfTheServerAreKept(t *testing.T) {
	_, administrator, _ := startServer(t)
	c := newOutside(administrator)
	other := func(name string) {
		t.Helper()
		if err := c.send(t, http.MethodPost, definitions, jsonContent, definition(name, schemaEnd, "", "")); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name string) bool {
		return c.send(t, http.MethodGet, definitions+"/"+name, jsonContent, "") == nil
	}
	label := func(name, value string) {
		t.Helper()
		if err := c.send(t, http.MethodPatch, definitions+"/"+name, string(types.MergePatchType), `{"metadata":{"labels":{"team":"`+value+`"}}}`); err != nil {
			t.Fatal(err)
		}
	}
	const ours = "devices.fleet.nationtech.io"
	other("a")
	other("b")
	label("as.attack.example.com", "x")
	label(ours, "y")
	selected := func(labels string) string { return definitions + "?labelSelector=" + url.QueryEscape(labels) }
	for name, try := range map[string]func() error{
		"one":                func() error { return c.send(t, http.MethodDelete, definitions+"/"+ours, jsonContent, "") },
		"all":                func() error { return c.send(t, http.MethodDelete, definitions, jsonContent, "") },
		"a selection of one": func() error { return c.send(t, http.MethodDelete, selected("team=y"), jsonContent, "") },
		"its version is not served": func() error {
			return c.send(t, http.MethodPatch, definitions+"/"+ours, string(types.JSONPatchType), `[{"op":"replace","path":"/spec/versions/0/served","value":false}]`)
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: error is %v, want that it is forbidden", name, err)
		}
	}
	if !there(ours) || !there("as.attack.example.com") {
		t.Error("what is refused deleted something")
	}
	if err := c.send(t, http.MethodDelete, selected("team=x"), jsonContent, ""); err != nil {
		t.Errorf("definitions of others: %v", err)
	}
	if err := c.send(t, http.MethodPatch, definitions+"/bs.attack.example.com", string(types.MergePatchType), `{"metadata":{"annotations":{"a":"b"}}}`); err != nil {
		t.Errorf("a change of another definition: %v", err)
	}
}
