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

	shop := func(image string) string { return deployment("shop", "group", image) }
	shows(kubectl(shop("localhost/shop:1"), "apply", "-f", "-"), "deployment.fleet.nationtech.io/shop created")
	shows(kubectl(shop("localhost/shop:1"), "apply", "-f", "-"), "unchanged")
	shows(kubectl(shop("localhost/shop:2"), "apply", "-f", "-"), "configured")
	shows(kubectl(shop("localhost/shop:2"), "apply", "--server-side", "--force-conflicts", "-f", "-"), "serverside-applied")
	kubectl("", "wait", "--for=condition=Available", "--timeout=60s", "fleetdep/shop")
	shows(kubectl("", "get", "fleetdep"), "ACCEPTED", "PodmanV0", "Valid")
	shows(kubectl("", "get", "fleetdev", "-o", "wide"), "CONNECTED", "group-1")
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
	shows(kubectl(kubectl("", "get", "fleetdep", "-o", "yaml"), "apply", "-f", "-"), "shop") // a List

	for name, manifest := range map[string]string{
		"spec.score.data.services[0].imgae: unknown field": strings.Replace(shop("localhost/shop:3"), "image:", "imgae:", 1),
		`no matches for kind "Deploymen"`:                  strings.Replace(shop("localhost/shop:3"), "kind: Deployment", "kind: Deploymen", 1),
	} {
		if out, err := try(manifest, "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("it took %s (%s), %v, want %q", manifest, out, err, name)
		}
	}
	// It asks for the fields in a form that this server has for the built-in kinds alone.
	if out, err := try("", "explain", "fleetdep.spec"); err == nil {
		shows(out, "targetSelector")
	} else if !strings.Contains(err.Error(), "fleet.nationtech.io") {
		t.Errorf("explain ends with %v", err)
	}
	kubectl("", "delete", "fleetdep", "shop", "--timeout=60s")
	kubectl("", "delete", "namespace", "site", "--timeout=60s")
	if left := s.kubectl("get", "fleetdep", "-A", "-o", "name"); left != "" {
		t.Errorf("left is %s", fmt.Sprint(left))
	}
}
