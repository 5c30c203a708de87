package agent_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// damaged are the ways in which a power cut or a worn card damages a file.
var damaged = map[string]func(data []byte) []byte{
	"empty":   func([]byte) []byte { return nil },
	"zeroed":  func(data []byte) []byte { return make([]byte, len(data)) },
	"cut":     func(data []byte) []byte { return data[:len(data)/2] },
	"flipped": func(data []byte) []byte { return bytes.Replace(data, []byte(`"seq":2`), []byte(`"seq":3`), 1) },
}

// damage damages files of the state directory of a device whose agent does not run.
func (d *device) damage(how func([]byte) []byte, files ...string) {
	d.t.Helper()
	for _, file := range files {
		path := filepath.Join(d.dir, file)
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, how(data), 0o600)
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// losesPower cuts the power of the device and leaves it off.
func (d *device) losesPower() {
	d.stop()
	d.podman.Cut()
	d.boot, d.on = d.boot+"+", time.Now()
	d.gateway.setOffline(true)
	d.podman.Calls()
}

// Whatever is damaged, the device runs what it ran, removes nothing, and says so once it
// can; the server's next answer mends it.
func TestDamagedStateKeepsWhatRuns(t *testing.T) {
	for name, how := range damaged {
		for what, files := range map[string][]string{
			"manifest":            {"manifest.json"},
			"memory":              {"memory.json"},
			"manifest and memory": {"manifest.json", "memory.json"},
			"all manifests":       {"manifest.json", "previous-manifest.json"},
			"all memory":          {"memory.json", "previous-memory.json"},
		} {
			t.Run(what+" "+name, func(t *testing.T) {
				onDevice(t, func(d *device) {
					d.gateway.issue("e1", deployments{web: {"front": nil}})
					d.settle()
					d.gateway.issue("e1", deployments{web: {"front": command("new")}, api: {"one": nil}})
					d.pass(time.Minute)
					d.losesPower()
					d.damage(how, files...)
					d.start()
					d.pass(time.Minute)
					d.expectCallsInAnyOrder("start shop_web_front", "start shop_api_one")
					if held := d.agent.Status().Held; len(held) > 0 {
						t.Errorf("the operator is asked to confirm that %v leave", held)
					}
					d.gateway.setOffline(false)
					d.pass(time.Minute)
					d.expectCalls()
					d.expectPhase(web, wire.PhaseRunning, "")
					d.expectPhase(api, wire.PhaseRunning, "")
					if c := d.gateway.condition(wire.ConditionManifestHeld); c.Status != wire.ConditionFalse {
						t.Errorf("condition %+v", c)
					}
				})
			})
		}
	}
}

// A device that knows nothing of its last manifest goes on by the one before, undoes
// nothing, and says so.
func TestDamagedManifestIsReported(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"one": nil}})
		d.pass(time.Minute)
		d.losesPower()
		d.damage(damaged["cut"], "manifest.json", "memory.json", "previous-memory.json")
		d.start()
		d.pass(time.Minute)
		d.expectCalls("start shop_web_front")
		held := func() (c wire.Condition) {
			all := d.agent.Status().Conditions
			return all[slices.IndexFunc(all, func(c wire.Condition) bool { return c.Type == wire.ConditionManifestHeld })]
		}
		if c := held(); c.Status != wire.ConditionTrue || c.Reason != "DamagedManifest" || len(d.agent.Status().Held) > 0 {
			t.Errorf("condition %+v", c)
		}
		d.gateway.setOffline(false)
		d.pass(time.Minute)
		d.expectCalls("start shop_api_one")
		if c := held(); c.Status != wire.ConditionFalse {
			t.Errorf("condition %+v", c)
		}
	})
}

// The previous manifest is of use with the bodies that it names.
func TestBodiesOfThePreviousManifestAreKept(t *testing.T) {
	onDevice(t, func(d *device) {
		for _, word := range []string{"one", "two", "three"} {
			d.gateway.issue("e1", deployments{web: {"front": command(word)}})
			d.pass(time.Minute)
		}
		bodies, err := os.ReadDir(filepath.Join(d.dir, "bodies"))
		if err != nil || len(bodies) != 2 {
			t.Errorf("there are %d bodies, want those of the manifest and the previous one: %v", len(bodies), err)
		}
	})
}

// A memory that is older than the previous manifest does not take its place.
func TestAnOldMemoryIsNotTheLastManifest(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": command("one")}})
		d.pass(time.Minute)
		old, err := os.ReadFile(filepath.Join(d.dir, "memory.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"two", "three"} {
			d.gateway.issue("e1", deployments{web: {"front": command(word)}})
			d.pass(time.Minute)
		}
		d.losesPower()
		d.damage(damaged["cut"], "manifest.json")
		d.damage(func([]byte) []byte { return old }, "memory.json", "previous-memory.json")
		d.start()
		d.pass(time.Minute)
		if v := d.agent.Status().Manifest; v.Seq != 2 {
			t.Errorf("it follows %v, want the previous manifest", v)
		}
	})
}
