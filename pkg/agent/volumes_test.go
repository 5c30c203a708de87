package agent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// declared is the volume that keeps what the image declares at /data.
var declared = container.ImageVolume(web, "front", "/data")

// mounts lists what the containers of a Deployment have at a path.
func (d *device) mounts(ref wire.DeploymentRef, path string) (volumes []string) {
	d.t.Helper()
	list, err := d.podman.List(d.t.Context(), ref)
	d.must(err)
	for _, c := range list {
		for _, m := range c.Volumes {
			if m.Path == path {
				volumes = append(volumes, m.Volume)
			}
		}
	}
	return volumes
}

func TestWhatAnImageDeclaresIsKept(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.Declare(image, "/data", "/other/")
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.expectCalls("volume "+declared, "volume "+container.ImageVolume(web, "front", "/other"), "create shop_web_front", "start shop_web_front")
		for _, version := range []string{"b", "c"} {
			d.gateway.issue("e1", deployments{web: {"front": command(version)}})
			d.settle()
			d.expectCalls(slices.Concat(prepared, swapped)...)
			if diff := cmp.Diff([]string{declared}, d.mounts(web, "/data")); diff != "" {
				t.Errorf("after a change: %s", diff)
			}
		}
	})
}

func TestAScoreMountsOverWhatAnImageDeclares(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.Declare(image, "/data")
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
			s.Volumes = []score.Volume{{Name: "data", MountPath: "/data"}}
		}}})
		d.settle()
		d.expectCalls("volume shop_web_data", "create shop_web_front", "start shop_web_front")
	})
}

func TestAnImageThatDeclaresTooMuchIsRefused(t *testing.T) {
	for want, paths := range map[string][]string{
		"declares a volume at /":          {"/"},
		"declares 65 volumes, at most 64": slices.Repeat([]string{"/data"}, 65),
	} {
		t.Run(want, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.podman.Declare(image, paths...)
				d.gateway.issue("e1", deployments{web: {"front": nil}})
				d.settle()
				d.expectCalls()
				d.expectPhase(web, wire.PhaseFailed, want)
			})
		})
	}
}

// leftVolume lets the device run a service of an agent that left to podman what images
// declare, and returns the volume that its data are in.
func (d *device) leftVolume() (anonymous string) {
	d.gateway.issue("e1", deployments{web: {"front": nil}})
	d.settle()
	anonymous = d.podman.Leave("shop_web_front", "/data")
	d.podman.Declare(image, "/data")
	return anonymous
}

// A container of an agent that left to podman what images declare keeps its data
// through changes, a power cut between them, and until the Deployment's volumes go.
func TestVolumesWithoutANameAreAdopted(t *testing.T) {
	onDevice(t, func(d *device) {
		anonymous := d.leftVolume()
		d.podman.Calls()
		for _, version := range []string{"b", "c"} {
			d.gateway.issue("e1", deployments{web: {"front": command(version)}})
			d.settle()
			if diff := cmp.Diff([]string{anonymous}, d.mounts(web, "/data")); diff != "" {
				t.Errorf("after a change: %s", diff)
			}
		}
		d.expectCalls(slices.Concat([]string{"volume " + declared}, prepared, swapped, prepared, swapped)...)
		d.gateway.issue("e1", nil)
		d.settle()
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		if diff := cmp.Diff([]string{anonymous}, d.mounts(web, "/data")); diff != "" {
			t.Errorf("after it left and came back: %s", diff)
		}
		d.podman.Calls()
		d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].VolumeRetention = wire.DeleteVolumes })
		d.settle()
		d.gateway.issue("e1", nil)
		d.settle()
		removed := slices.Sorted(slices.Values([]string{"unvolume " + anonymous, "unvolume " + declared}))
		d.expectCalls(append([]string{"stop shop_web_front", "remove shop_web_front"}, removed...)...)
	})
}

// Where podman's database is lost, and with it the label that says which volume without a name
// stands for which of the agent's, the agent still knows, until the volume is removed.
func TestAdoptedVolumesSurviveTheLossOfTheDatabase(t *testing.T) {
	onDevice(t, func(d *device) {
		anonymous := d.leftVolume()
		d.gateway.issue("e1", deployments{web: {"front": command("b")}})
		d.settle()
		d.losesPower()
		d.podman.Forget()
		d.start()
		d.expectCalls("volume "+anonymous, "volume "+declared, "create shop_web_front", "start shop_web_front")
		if diff := cmp.Diff([]string{anonymous}, d.mounts(web, "/data")); diff != "" {
			t.Errorf("after the loss: %s", diff)
		}
		d.gateway.setOffline(false)
		d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].VolumeRetention = wire.DeleteVolumes })
		d.settle()
		d.gateway.issue("e1", nil)
		d.settle()
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.expectCalls("volume "+declared, "create shop_web_front", "start shop_web_front")
	})
}

// Services that take their time to end do not add up.
func TestServicesEndSideBySide(t *testing.T) {
	onDevice(t, func(d *device) {
		const ending = 20 * time.Second // of the 30 that a container has
		all := func(change func(*score.Service)) deployments {
			return deployments{web: {"a": change, "b": change, "c": change, "d": change, "e": change, "f": change}}
		}
		d.gateway.issue("e1", all(nil))
		d.settle()
		d.podman.Ending = ending
		d.gateway.issue("e1", all(command("b")))
		d.pass(ending - time.Second)
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		d.pass(2 * time.Second)
		if calls := d.podman.Calls(); !slices.Contains(calls, "start shop_web_f_next") {
			t.Errorf("after the time that one takes: %v", calls)
		}
	})
}

// A service may have longer to end than other steps may take.
func TestAServiceHasItsTimeToEnd(t *testing.T) {
	onDevice(t, func(d *device) {
		const ending = 40 * time.Minute
		patient := func(word string) func(*score.Service) {
			return func(s *score.Service) {
				s.Command, s.TerminationGracePeriodSeconds = []string{word}, new(int(time.Hour.Seconds()))
			}
		}
		d.gateway.issue("e1", deployments{web: {"front": patient("a")}})
		d.settle()
		d.podman.Ending = ending
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": patient("b")}})
		d.pass(ending - time.Second)
		d.expectCalls(prepared...)
		d.pass(2 * time.Second)
		d.expectCalls("stop shop_web_front", "start shop_web_front_next")
	})
}
