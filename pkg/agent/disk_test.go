package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// smallDisk moves the state of a device to a file system of 8 MiB.
func (d *device) smallDisk() (dir string) {
	d.t.Helper()
	dir = d.dir + "-small"
	err := errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"))
	if errors.Is(err, unix.EPERM) {
		d.t.Skip("only root mounts file systems")
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.stop()
	d.dir, d.locks = filepath.Join(dir, "state"), true
	d.start()
	return dir
}

func (d *device) unmount(dir string) {
	d.t.Helper()
	d.stop()
	d.stop = func() {}
	if err := unix.Unmount(dir, 0); err != nil {
		d.t.Error(err)
	}
}

// fillDisk takes all that is left of a file system.
func (d *device) fillDisk(dir string) {
	d.t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		d.t.Fatal(err)
	}
}

// On a full disk the device follows its server, keeps what it is told, says that it is
// full in words that stay the same, and heals when there is space.
func TestADeviceWithAFullDisk(t *testing.T) {
	onDevice(t, func(d *device) {
		dir := d.smallDisk()
		defer func() { d.unmount(dir) }()
		d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"one": nil}})
		d.settle()
		d.podman.Calls()
		d.fillDisk(dir)
		d.pass(time.Minute)
		full := d.gateway.condition(wire.ConditionDiskPressure)
		if full.Status != wire.ConditionTrue || full.Reason != "Full" || !strings.Contains(full.Message, "less than 3 % (245 KiB of 8 MiB)") {
			t.Fatalf("condition %+v", full)
		}
		for n := range 10 {
			d.gateway.issue("e1", deployments{web: {"front": command(fmt.Sprint(n), strings.Repeat("x", 100<<10))}, api: {"one": nil}})
			d.pass(time.Minute)
			d.fillDisk(dir)
			d.expectCalls(append(prepared, swapped...)...)
			d.expectPhase(web, wire.PhaseRunning, "")
			if c := d.gateway.condition(wire.ConditionDiskPressure); c != full {
				t.Errorf("condition %+v", c)
			}
		}
		d.gateway.setOffline(true)
		d.restart() // from what it wrote
		d.pass(time.Minute)
		d.expectCalls()
		if got, want := d.agent.Status().Manifest, d.gateway.manifest.Version; got != want {
			t.Errorf("after a restart the manifest is %v, want %v", got, want)
		}
		d.gateway.setOffline(false)
		if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
			t.Fatal(err)
		}
		d.pass(time.Minute)
		d.expectCalls()
		if c := d.gateway.condition(wire.ConditionDiskPressure); c.Status != wire.ConditionFalse {
			t.Errorf("with space: %+v", c)
		}
	})
}

// Without room for an image, nothing is pulled and what runs goes on; the report says how
// much room there is, and stays the same. When there is room it is pulled.
func TestNoRoomForAnImage(t *testing.T) {
	const gib = 1 << 30
	onDevice(t, func(d *device) {
		d.podman.SetSpace(4*gib, gib)
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.podman.SetSpace(4*gib, 4*gib-50<<20)
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/next:1")}})
		d.pass(time.Minute)
		const want = `pulling image "localhost/next:1": no space: less than 81 MiB of the 4.0 GiB of the image store's file system is free, and nothing is pulled below that: remove what is not needed, or give it more room`
		d.expectPhase(web, wire.PhaseFailed, want)
		said := d.gateway.raw(web)
		for free := range 10 {
			d.podman.SetSpace(4*gib, 4*gib-uint64(free)<<20)
			d.pass(10 * time.Minute)
		}
		d.expectCalls()
		if got := d.gateway.raw(web); got != said {
			t.Errorf("the report changes: %s, then %s", said, got)
		}
		d.podman.SetSpace(4*gib, gib)
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// An image that does not fit is said in words of the agent's, with figures.
func TestAnImageThatDoesNotFit(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.SetSpace(4<<30, 3<<30)
		var attempts int
		d.podman.PullFunc = func(context.Context, string) error {
			attempts++
			return fmt.Errorf("writing blob: storing blob to file /var/tmp/storage%d/1: write: no space left on device", attempts)
		}
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/next:1")}})
		d.pass(time.Hour)
		d.expectPhase(web, wire.PhaseFailed, "it needs more than the image store has free, which is under 1.2 GiB of 4.0 GiB, or than /var/tmp has")
		if phases := d.gateway.phases(web); len(phases) > 3 || attempts < 5 {
			t.Errorf("%d attempts were reported as %v", attempts, phases)
		}
	})
}
