package interop_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A kubectl that is years old does what people do every day.
func TestOldKubectl(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	try := func(stdin string, args ...string) (string, error) {
		return s.run(t.Context(), stdin, "kubectl", args...)
	}
	kubectl := func(stdin string, args ...string) string {
		t.Helper()
		out, err := try(stdin, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	shows := func(out string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(out, p) {
				t.Errorf("%q is missing in:\n%s", p, out)
			}
		}
	}
	var version struct {
		ClientVersion struct{ Major, Minor string }
	}
	if err := json.Unmarshal([]byte(kubectl("", "version", "--client", "-o", "json")), &version); err != nil {
		t.Fatal(err)
	}
	t.Logf("kubectl %s.%s", version.ClientVersion.Major, version.ClientVersion.Minor)

	// It takes what begins with a brace for JSON.
	shop := func(image string) string { return "---\n" + deployment("shop", "group", image) }
	shows(kubectl(shop("localhost/shop:1"), "apply", "-f", "-"), "deployment.fleet.nationtech.io/shop created")
	shows(kubectl(shop("localhost/shop:1"), "apply", "-f", "-"), "unchanged")
	shows(kubectl(shop("localhost/shop:2"), "apply", "-f", "-"), "configured")
	shows(kubectl(shop("localhost/shop:2"), "apply", "--server-side", "--force-conflicts", "-f", "-"), "serverside-applied")
	kubectl("", "wait", "--for=condition=Available", "--timeout=60s", "fleetdep/shop")
	shows(kubectl("", "get", "fleetdep"), "ACCEPTED", "PodmanV0", "Valid")
	shows(kubectl("", "get", "fleetdev", "-o", "wide"), "REASON", "Operational", "CONNECTED", "group-1")
	shows(kubectl("", "get", "all"), "shop")
	shows(kubectl("", "get", "fleetdep", "shop", "-o", "jsonpath={.status.aggregate.succeeded}"), "2")
	shows(kubectl("", "describe", "fleetdep", "shop"), "localhost/shop:2", "Available")
	kubectl("", "label", "fleetdep", "shop", "team=edge")
	kubectl("", "annotate", "fleetdep", "shop", "note=x")
	kubectl("", "patch", "fleetdep", "shop", "--type=merge", "-p", `{"spec":{"volumeRetention":"Delete"}}`)
	shows(kubectl("", "get", "fleetdep", "-l", "team=edge", "-o", "jsonpath={.items[0].spec.volumeRetention}"), "Delete")
	shows(kubectl("", "get", "events", "--field-selector", "involvedObject.name=shop"), "Accepted")
	shows(kubectl("", "api-resources", "--api-group=fleet.nationtech.io"), "fleetdep", "fleetdev")
	shows(kubectl("", "auth", "can-i", "create", "deployments.fleet.nationtech.io"), "yes")
	shows(kubectl("", "explain", "secrets.data"), "DESCRIPTION")
	kubectl("", "create", "namespace", "site")
	kubectl("", "create", "secret", "generic", "tls", "--namespace=site", "--from-literal=k=v")
	list := "apiVersion: v1\nkind: List\nitems:\n- " + deployment("shop", "group", "localhost/shop:2") + "\n- " + deployment("till", "group", "localhost/till:1")
	shows(kubectl(list, "apply", "-f", "-"), "deployment.fleet.nationtech.io/shop", "deployment.fleet.nationtech.io/till created")

	for name, manifest := range map[string]string{
		"spec.score.data.services[0].imgae: unknown field": strings.Replace(shop("localhost/shop:3"), "image:", "imgae:", 1),
		`no matches for kind "Deploymen"`:                  strings.Replace(shop("localhost/shop:3"), "kind: Deployment", "kind: Deploymen", 1),
	} {
		if out, err := try(manifest, "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("it took %s (%s), %v, want %q", manifest, out, err, name)
		}
	}
	// What one before 1.27 cannot do, docs/support.md says: it asks for fields in a form that
	// the server has for the built-in kinds alone, and for definitions in a version that
	// Kubernetes has no more. It has to fail, and to say what it looked for.
	for _, tc := range []struct{ args, works, fails string }{
		{"explain fleetdep.spec", "targetSelector", "fleet.nationtech.io"},
		{"apply --dry-run=server -f -", "unchanged", "failed to list CRDs"},
		{"diff -f -", "", "failed to list CRDs"},
	} {
		out, err := try(shop("localhost/shop:2"), strings.Fields(tc.args)...)
		switch {
		case err == nil:
			shows(out, tc.works)
		case version.ClientVersion.Minor >= "27" || !strings.Contains(err.Error(), tc.fails):
			t.Errorf("%s ends with %v", tc.args, err)
		}
	}
	kubectl("", "delete", "fleetdep", "shop", "till", "--timeout=60s")
	kubectl("", "delete", "namespace", "site", "--timeout=60s")
	if left := s.kubectl("get", "fleetdep", "-A", "-o", "name"); left != "" {
		t.Errorf("left is %s", fmt.Sprint(left))
	}
}
