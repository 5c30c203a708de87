package interop_test

import (
	"strings"
	"testing"
)

// Helm waits until a Deployment runs on its devices, and takes back what fails.
func TestHelm(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	helm := func(args ...string) (string, error) {
		return s.run(t.Context(), "", "helm", append(args, "--namespace", "default")...)
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := helm(args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	runs := func(image string) {
		t.Helper()
		const columns = "jsonpath={.spec.score.data.services[0].image} {.status.aggregate.succeeded}/{.status.aggregate.matchedDeviceCount}"
		if got := s.kubectl("get", "fleetdep", "shop", "-o", columns); got != image+" 2/2" {
			t.Errorf("shop runs %s, want %s on both devices", got, image)
		}
	}
	const chart = "testdata/shop"
	must("install", "shop", chart, "--wait", "--timeout", "60s")
	runs("localhost/shop:1")
	must("upgrade", "shop", chart, "--set", "image=localhost/shop:2", "--wait", "--timeout", "60s")
	runs("localhost/shop:2")

	_, err := helm("upgrade", "shop", chart, "--set", "selector=broken,image=localhost/shop:3", "--wait", "--rollback-on-failure", "--timeout", "20s")
	if err == nil {
		t.Error("an upgrade that fails on its device succeeded")
	}
	runs("localhost/shop:2")
	if history := must("history", "shop"); !strings.Contains(history, "Rollback to 2") {
		t.Errorf("the history is:\n%s", history)
	}
	if _, err := helm("upgrade", "shop", chart, "--set", "image=not qualified", "--wait", "--rollback-on-failure", "--timeout", "20s"); err == nil {
		t.Error("an upgrade that is refused succeeded")
	}
	runs("localhost/shop:2")
	must("uninstall", "shop", "--wait", "--timeout", "60s")
	if left := s.kubectl("get", "fleetdep", "-o", "name"); left != "" {
		t.Errorf("after the removal there is %s", left)
	}
}
