package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const gib = 1 << 30

// pruning restarts the agent with rules for images.
func (d *device) pruning(rules driver.Prune) {
	d.prune = rules
	d.podman.SetSpace(100*gib, 50*gib)
	d.restart()
	d.gateway.setOffline(false)
	d.settle()
}

// version is an image that can be pulled.
func version(n int) string { return fmt.Sprintf("localhost/app:v%d", n) }

// runsVersions makes the device run versions of an image one after the other.
func (d *device) runsVersions(numbers ...int) {
	d.t.Helper()
	for _, n := range numbers {
		d.gateway.issue("e1", deployments{web: {"front": fromImage(version(n))}})
		d.pass(time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
	}
}

// removed lists what was removed since the last call.
func (d *device) removed() (names []string) {
	d.t.Helper()
	for _, call := range d.podman.Calls() {
		if what, ok := strings.CutPrefix(call, "unpull "); ok {
			names = append(names, what)
		}
	}
	return names
}

// has reports whether an image is on the device.
func (d *device) has(name string) bool {
	here, err := d.podman.ImageExists(d.t.Context(), name)
	if err != nil {
		d.t.Fatal(err)
	}
	return here
}

// Images that nothing needs go by age; those of the manifest, of the previous one, of
// containers and of people never do.
func TestUnneededImagesGoByAge(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.Load("localhost/mine:1")
		d.pruning(driver.Prune{After: 30 * time.Hour})
		d.runsVersions(1, 2, 3)
		d.podman.Tag(version(1), "localhost/kept:1")
		d.pass(29 * time.Hour)
		if got := d.removed(); len(got) > 0 {
			t.Errorf("%v went early", got)
		}
		d.runsVersions(4)
		d.pass(2 * time.Hour)
		if got := d.removed(); len(got) > 0 || !d.has(version(2)) {
			t.Errorf("%v went: version 2 was the previous one, and has been unneeded for two hours", got)
		}
		d.pass(30 * time.Hour)
		if got := d.removed(); len(got) != 1 || d.has(version(2)) {
			t.Errorf("%v went, want version 2 alone", got)
		}
		for _, name := range []string{version(1), version(3), version(4), "localhost/mine:1", "localhost/kept:1", image} {
			if !d.has(name) {
				t.Errorf("%s is gone", name)
			}
		}
	})
}

// Only time counts that the device was on and saw: neither a reboot nor a clock that was
// set makes an image old.
func TestTimeThatNobodySawMakesNoImageOld(t *testing.T) {
	onDevice(t, func(d *device) {
		d.pruning(driver.Prune{After: 6 * time.Hour})
		d.runsVersions(1, 2, 3)
		for range 5 {
			d.losesPower()
			time.Sleep(365 * 24 * time.Hour)
			d.on = time.Now()
			d.start()
			d.pass(time.Hour)
		}
		if !d.has(version(1)) {
			t.Error("version 1 went after five hours that it was seen")
		}
		d.pass(6 * time.Hour)
		if d.has(version(1)) {
			t.Error("version 1 is still there after six hours")
		}
	})
}

// When the disk fills up, the longest unneeded images go until there is space.
func TestUnneededImagesMakeSpace(t *testing.T) {
	onDevice(t, func(d *device) {
		d.pruning(driver.Prune{Above: 85, DownTo: 75})
		for n := range 6 {
			d.runsVersions(n)
			d.pass(11 * time.Minute)
		}
		if got := d.removed(); len(got) > 0 {
			t.Fatalf("%v went without need", got)
		}
		used := uint64(86)
		d.podman.OnRemove(func() { used -= 6; d.podman.SetSpace(100*gib, used*gib) })
		d.podman.SetSpace(100*gib, used*gib)
		d.pass(time.Hour)
		if got := d.removed(); len(got) != 2 || d.has(version(0)) || d.has(version(1)) {
			t.Errorf("%v went, want versions 0 and 1", got)
		}
	})
}

// A pull that has no room makes unneeded images go at once, and is tried again.
func TestAPullMakesSpace(t *testing.T) {
	onDevice(t, func(d *device) {
		d.pruning(driver.Prune{Above: 85, DownTo: 75})
		d.runsVersions(1, 2, 3)
		d.podman.OnRemove(func() { d.podman.SetSpace(100*gib, 70*gib) })
		d.podman.SetSpace(100*gib, 100*gib-1)
		d.gateway.issue("e1", deployments{web: {"front": fromImage(version(4))}})
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
		if d.has(version(1)) || !d.has(version(2)) || !d.has(version(3)) {
			t.Errorf("went: %v", d.removed())
		}
	})
}

// An image that lost its name to another goes, unless it is somebody's.
func TestReplacedImagesGo(t *testing.T) {
	onDevice(t, func(d *device) {
		d.pruning(driver.Prune{Above: 85, DownTo: 75})
		d.runsVersions(1, 2)
		for _, name := range []string{version(1), image} { // somebody pulls them anew
			d.podman.Publish(name)
			d.podman.Load(name)
		}
		d.pass(time.Hour)
		if got := d.removed(); len(got) != 1 || !d.has(version(1)) || !d.has(image) {
			t.Errorf("%v went, want the one that had the name of version 1", got)
		}
	})
}

func TestNothingGoesWhenPruningIsOff(t *testing.T) {
	onDevice(t, func(d *device) {
		d.pruning(driver.Prune{})
		d.runsVersions(1, 2, 3)
		d.podman.SetSpace(100*gib, 89*gib)
		d.pass(24 * time.Hour)
		if got := d.removed(); len(got) > 0 {
			t.Errorf("%v went", got)
		}
	})
}

// Where a score is not on the device, nobody knows which images it needs.
func TestNothingGoesWhileAScoreIsMissing(t *testing.T) {
	onDevice(t, func(d *device) {
		d.pruning(driver.Prune{After: time.Hour})
		d.runsVersions(1, 2, 3)
		d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].Hash = strings.Repeat("0", 64) })
		d.pass(24 * time.Hour)
		if got := d.removed(); len(got) > 0 {
			t.Errorf("%v went", got)
		}
	})
}

func (d *device) survival() wire.Condition {
	d.t.Helper()
	return d.condition(wire.ConditionWouldSurviveReboot)
}

// condition is one that the device reports.
func (d *device) condition(typ string) wire.Condition {
	d.t.Helper()
	all := d.agent.Status().Conditions
	i := slices.IndexFunc(all, func(c wire.Condition) bool { return c.Type == typ })
	if i < 0 {
		d.t.Fatalf("there is no condition %s", typ)
	}
	return all[i]
}

func TestWouldSurviveReboot(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(*device)
		want   string
	}{
		"nothing":         {func(*device) {}, ""},
		"an image":        {func(d *device) { d.podman.Lose(image) }, "lack image " + image + " of shop/api; image " + image + " of shop/web"},
		"a score":         {func(d *device) { d.lose("bodies/" + d.gateway.manifest.Entries[0].Hash) }, "lack the score or Secrets of shop/api"},
		"a damaged score": {func(d *device) { d.damage(damaged["zeroed"], "bodies/"+d.gateway.manifest.Entries[0].Hash) }, "lack the score or Secrets of shop/api"},
		"the device":      {func(d *device) { d.lack("linger of w", "a", "b", "c", "d") }, "lack linger of w; a; b; and 2 more"},
	} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"one": nil}})
				d.pass(time.Minute)
				if c := d.survival(); c.Status != wire.ConditionTrue || c.Reason != "NothingMissing" {
					t.Errorf("before: %+v", c)
				}
				d.gateway.setOffline(true)
				tc.damage(d)
				d.pass(2 * time.Hour)
				c := d.survival()
				if (tc.want == "") != (c.Status == wire.ConditionTrue) || tc.want != "" && !strings.HasSuffix(c.Message, tc.want) {
					t.Errorf("got %+v, want %q", c, tc.want)
				}
				d.lack()
				d.podman.Load(image)
				d.gateway.setOffline(false)
				d.pass(time.Hour)
				if c := d.survival(); c.Status != wire.ConditionTrue {
					t.Errorf("when all is there again: %+v", c)
				}
			})
		})
	}
}

// lack sets what the device itself lacks for a restart.
func (d *device) lack(what ...string) { d.gateway.look(func() { d.lacks = what }) }

// lose removes a file of the state directory.
func (d *device) lose(file string) {
	d.t.Helper()
	if err := os.Remove(filepath.Join(d.dir, file)); err != nil {
		d.t.Fatal(err)
	}
}

func TestWouldSurviveRebootIsNotKnownWithoutPodman(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		d.podman.SetDown(true)
		d.pass(time.Minute)
		if c := d.survival(); c.Status != wire.ConditionUnknown {
			t.Errorf("got %+v", c)
		}
		d.lack("linger of w") // which is why podman is down
		d.pass(time.Minute)
		if c := d.survival(); c.Status != wire.ConditionFalse || !strings.HasSuffix(c.Message, "lack linger of w") {
			t.Errorf("without linger: %+v", c)
		}
	})
}

// What the manifest names may be on its way: what runs would start again.
func TestAnUpdateOnItsWayIsNothingMissing(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		d.podman.PullFunc = func(context.Context, string) error { return errOffline }
		d.gateway.issue("e1", deployments{web: {"front": fromImage(version(2))}})
		d.pass(time.Minute)
		if c := d.survival(); c.Status != wire.ConditionTrue {
			t.Errorf("got %+v", c)
		}
	})
}
