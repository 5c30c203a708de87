package podman

import (
	"strings"
	"testing"
	"testing/fstest"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

func TestALostMonitorIsNoticed(t *testing.T) {
	t.Parallel()
	const user = "user.slice/user-995.slice/user@995.service/user.slice/"
	name := strings.Repeat("a1", 32)
	var i inspection
	i.ID = id(name)
	i.State.CgroupPath = "/" + user + "libpod-" + name + ".scope/container"
	monitor := user + "libpod-conmon-" + name + ".scope/cgroup.events"
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	up, down, none := fstest.MapFS{monitor: file("populated 1\nfrozen 0\n")}, fstest.MapFS{monitor: file("populated 0\n")}, fstest.MapFS{}

	var m monitors
	for name, groups := range map[string]fstest.MapFS{"empty": down, "none": none} {
		if m.lost(groups, &i) {
			t.Errorf("%s: a monitor that was never seen is lost", name)
		}
	}
	if m.lost(up, &i) {
		t.Error("a monitor that is there is lost")
	}
	for name, groups := range map[string]fstest.MapFS{"empty": down, "none": none} {
		if !m.lost(groups, &i) {
			t.Errorf("%s: a monitor that was there is not missed", name)
		}
	}
	m.keep([]container.Container{{ID: name}})
	if !m.lost(none, &i) {
		t.Error("what is still there was forgotten")
	}
	m.keep(nil)
	if m.lost(none, &i) {
		t.Error("what is gone is remembered")
	}
	for _, group := range []string{"", "/", "/machine/libpod-" + name, "/x/libpod-other.scope"} {
		i.State.CgroupPath = group
		m.seen = map[string]bool{name: true}
		if m.lost(none, &i) {
			t.Errorf("%q says that the monitor is lost", group)
		}
	}
}
