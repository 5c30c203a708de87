package agent_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/agent/workload/workloadtest"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// withFiles runs a test on a device that has a driver beside that of containers:
// one package, and one line where drivers are listed.
func withFiles(t *testing.T, test func(d *device, files *workloadtest.Files)) {
	t.Helper()
	onDevice(t, func(d *device) {
		d.stop()
		files := &workloadtest.Files{Dir: filepath.Join(filepath.Dir(d.dir), "files")}
		d.must(os.MkdirAll(files.Dir, 0o755))
		d.further = []workload.Driver{files}
		d.start()
		test(d, files)
	})
}

// addFile adds a Deployment of a file to what is issued, or replaces the one of
// that name.
func (d *device) addFile(ref wire.DeploymentRef, content string) {
	d.t.Helper()
	body, err := score.Canonical(workloadtest.TypeFileV0, fmt.Appendf(nil, `{"content":%q}`, content))
	d.must(err)
	d.gateway.edit(func(m *wire.Manifest) {
		entries := []wire.Entry{d.gateway.entry(ref, workloadtest.TypeFileV0, body)}
		for _, e := range m.Entries {
			if e.DeploymentRef != ref {
				entries = append(entries, e)
			}
		}
		slices.SortFunc(entries, func(a, b wire.Entry) int { return a.Compare(b.DeploymentRef) })
		m.Entries = entries
	})
}

func expectFile(t *testing.T, files *workloadtest.Files, ref wire.DeploymentRef, want string) {
	t.Helper()
	got, err := os.ReadFile(files.Path(ref))
	if want == "" && os.IsNotExist(err) {
		return
	}
	if err != nil || string(got) != want {
		t.Errorf("the file of %s has %q, want %q: %v", ref, got, want, err)
	}
}

func TestAnotherDriverBesideContainers(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.addFile(api, "first")
		d.settle()
		d.gateway.look(func() {
			if diff := cmp.Diff([]string{"score/FileV0", "score/PodmanV0"}, d.gateway.capabilities); diff != "" {
				t.Errorf("what the agent says that it can do: %s", diff)
			}
		})
		d.expectPhase(api, wire.PhaseRunning, "")
		d.expectPhase(web, wire.PhaseRunning, "")
		expectFile(t, files, api, "first")
		d.podman.Calls()

		d.addFile(api, "second")
		d.settle()
		expectFile(t, files, api, "second")
		d.must(os.Remove(files.Path(api))) // nobody tells of it
		d.pass(2 * time.Minute)
		expectFile(t, files, api, "second")
		d.restart()
		d.gateway.setOffline(false)
		d.settle()
		d.expectCalls()

		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		expectFile(t, files, api, "")
		if d.gateway.raw(api) != "" {
			t.Error("the server was not told")
		}
		d.expectCalls()
	})
}

// A driver that cannot work holds up nothing of another.
func TestADriverThatIsAwayHoldsUpNoOther(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.addFile(api, "first")
		d.settle()
		d.podman.SetDown(true)
		d.addFile(api, "second")
		d.settle()
		expectFile(t, files, api, "second")
		d.expectPhase(api, wire.PhaseRunning, "")
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		expectFile(t, files, api, "")

		d.podman.SetDown(false)
		files.SetDown(true)
		d.gateway.issue("e1", nil)
		d.pass(2 * time.Minute)
		if list, err := d.podman.List(t.Context(), web); err != nil || len(list) > 0 {
			t.Errorf("containers are %v, %v", list, err)
		}
	})
}

// What a driver may have is not forgotten while the driver cannot say.
// A driver without a condition of the device has the Deployment say what is wrong.
func TestADeploymentSaysThatItsDriverIsAway(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.addFile(api, "first")
		d.settle()
		files.SetDown(true)
		d.addFile(api, "second")
		d.settle()
		d.expectPhase(api, wire.PhaseFailed, "unavailable")
		d.expectPhase(web, wire.PhaseRunning, "")
		files.SetDown(false)
		d.pass(2 * time.Minute)
		d.expectPhase(api, wire.PhaseRunning, "")
		expectFile(t, files, api, "second")
	})
}

func TestADeploymentIsNotGoneWhileItsDriverIsAway(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		d.gateway.issue("e1", nil)
		d.addFile(api, "first")
		d.settle()
		files.SetDown(true)
		d.gateway.issue("e1", nil)
		d.pass(10 * time.Minute)
		d.expectPhase(api, wire.PhaseRunning, "")
		files.SetDown(false)
		d.pass(10 * time.Minute)
		expectFile(t, files, api, "")
		if d.gateway.raw(api) != "" {
			t.Error("the server was not told")
		}
	})
}

// A score of another type is another driver's. What the first made goes, but for
// data, and not before there is what takes its place.
func TestADeploymentChangesItsDriver(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		withPort := services{"front": func(s *score.Service) { withVolume(s); onPort(80)(s) }}
		d.gateway.issue("e1", deployments{web: withPort})
		d.settle()
		d.podman.Calls()
		d.addFile(web, "instead")
		d.settle()
		d.expectCalls("stop shop_web_front", "remove shop_web_front")
		expectFile(t, files, web, "instead")
		d.expectPhase(web, wire.PhaseRunning, "")

		// Its port is free.
		d.gateway.issue("e1", deployments{api: {"one": onPort(80)}})
		d.addFile(web, "instead")
		d.settle()
		d.expectPhase(api, wire.PhaseRunning, "")

		// And back, although the agent is another by then.
		d.stop()
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": withVolume}})
		d.gateway.setOffline(false)
		d.start()
		d.settle()
		expectFile(t, files, web, "")
		d.expectPhase(web, wire.PhaseRunning, "")

		// While the driver of what runs is away, nothing takes its place.
		d.podman.SetDown(true)
		d.addFile(web, "again")
		d.settle()
		expectFile(t, files, web, "")
		d.podman.SetDown(false)
		d.pass(time.Minute)
		expectFile(t, files, web, "again")
		if list, err := d.podman.List(t.Context(), web); err != nil || len(list) > 0 {
			t.Errorf("containers are %v, %v", list, err)
		}
	})
}

// What is fetched comes before what runs is removed, for a new driver as well.
func TestAChangeOfDriversWaitsForTheFetch(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		d.gateway.issue("e1", nil)
		d.addFile(web, "first")
		d.settle()
		pulled := make(chan struct{})
		d.podman.PullFunc = func(ctx context.Context, _ string) error {
			select {
			case <-pulled:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/slow:1")}})
		d.pass(10 * time.Minute)
		expectFile(t, files, web, "first")
		d.expectPhase(web, wire.PhasePending, "")
		close(pulled)
		d.settle()
		expectFile(t, files, web, "")
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestUnknownScoreTypeNamesAllKnown(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		d.gateway.issue("e1", nil)
		d.addFile(web, "first")
		d.settle()
		body, err := score.Canonical("HelmV9", []byte(`{}`))
		d.must(err)
		d.gateway.edit(func(m *wire.Manifest) { m.Entries = []wire.Entry{d.gateway.entry(web, "HelmV9", body)} })
		d.settle()
		d.expectPhase(web, wire.PhaseFailed, "this agent knows FileV0, PodmanV0")
		expectFile(t, files, web, "first") // what runs goes on
	})
}

func TestRevokedStopAndWipeOfEveryDriver(t *testing.T) {
	withFiles(t, func(d *device, files *workloadtest.Files) {
		d.enrolled()
		d.addFile(api, "first")
		d.settle()
		d.throwOut(wire.RevocationStop)
		d.expectCalls("stop shop_web_front")
		expectFile(t, files, api, "")
		d.throwOut(wire.RevocationWipe)
		w, _ := d.wipe(time.Second)
		if s := w.Status(); !strings.Contains(s.Standing, "is wiped") {
			t.Errorf("status %+v", s)
		}
		d.expectCalls("remove shop_web_front", "unvolume shop_web_data")
		if left, err := os.ReadDir(files.Dir); err != nil || len(left) > 0 {
			t.Errorf("%d files are left: %v", len(left), err)
		}
	})
}

// late is a driver that answers a look only when asked to.
type late struct {
	*workloadtest.Files

	// held: hold is received from between what the driver finds and its answer.
	held atomic.Bool
	hold chan struct{}
}

func (l *late) Ready(ctx context.Context) (workload.Look, error) {
	look, err := l.Files.Ready(ctx)
	if l.held.Load() {
		<-l.hold
	}
	return look, err
}

// A look that began while there was something of a Deployment and ends after it was
// forgotten must not bring it back.
func TestALookIsOlderThanARemoval(t *testing.T) {
	onDevice(t, func(d *device) {
		d.stop()
		driver := &late{Files: &workloadtest.Files{Dir: filepath.Join(filepath.Dir(d.dir), "files")}, hold: make(chan struct{})}
		d.must(os.MkdirAll(driver.Dir, 0o755))
		d.further = []workload.Driver{driver}
		d.start()
		d.gateway.issue("e1", nil)
		d.addFile(api, "first")
		d.settle()
		d.expectPhase(api, wire.PhaseRunning, "")

		driver.held.Store(true)
		d.pass(time.Minute) // the look has begun
		d.gateway.issue("e1", nil)
		d.settle()
		driver.hold <- struct{}{}
		d.settle()
		expectFile(t, driver.Files, api, "")
		if phases := d.gateway.phases(api); phases[len(phases)-1] != wire.PhaseRemoved {
			t.Errorf("reported as %v", phases)
		}
		if c := d.gateway.condition(wire.ConditionManifestHeld); c.Status == wire.ConditionTrue {
			t.Errorf("condition %+v", c)
		}
		close(driver.hold)
	})
}
