package interop_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// k9s shows what runs where, follows it, describes it with its events, and deletes it.
func TestK9s(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	apply := func(name string) {
		t.Helper()
		if _, err := s.Apply(t.Context(), deployment(name, "group", "localhost/"+name+":1")); err != nil {
			t.Fatal(err)
		}
	}
	apply("shop")
	cmd := exec.Command(binary(t, filepath.Join("interop", "k9s")), "--command", "fleetdep", "--namespace", "default", "--splashless", "--logoless")
	cmd.Env, cmd.Dir = s.environment(), t.TempDir()
	k9s := show(t, cmd)
	sees := func(words string) {
		t.Helper()
		s.eventually("k9s shows it", func() error { return k9s.shows(words) })
	}
	goTo := func(kind string) {
		t.Helper()
		k9s.press(t, ":"+kind+"\r")
	}

	const runs = " PodmanV0 Valid 2 2 0 0 "
	sees("shop" + runs)
	apply("till") // while it looks
	sees("till" + runs)
	goTo("fleetdev")
	sees("devices(all)[3]")
	sees("group-1 True Operational True")
	sees("broken-1 True Operational True")
	goTo("controllerrevisions")
	sees("shop-")

	goTo("fleetdep")
	sees("shop" + runs)
	s.kubectl("wait", "--for=create", "events", "--field-selector=reason=RolledOut,involvedObject.name=shop", "--timeout=60s")
	k9s.press(t, "d")
	sees("Name: shop")
	k9s.press(t, "G") // to the end
	sees("RolledOut")
	k9s.press(t, "\x1b")
	sees("shop" + runs)

	const remove, tab, enter = "\x04", "\t", "\r"
	k9s.press(t, remove)
	sees("Delete deployments default/shop?")
	k9s.press(t, tab+enter) // from Cancel to OK
	s.kubectl("wait", "--for=delete", "deployments.fleet.nationtech.io/shop", "--timeout=60s")
	if left := s.kubectl("get", "fleetdep", "-o", "name"); left != "deployment.fleet.nationtech.io/till\n" {
		t.Errorf("left is %q, want till alone", left)
	}
}
