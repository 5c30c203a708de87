package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestRestartRaisesTheTermAndKeepsEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	before := runs(t, d, "default/hello")
	reports := d.Reports()

	s.stop()
	s.start()
	after := newerManifest(t, d, before)
	if after.Epoch != before.Epoch || after.Term != before.Term+1 {
		t.Errorf("version is %v after %v, want the same epoch and the next term", after.Version, before.Version)
	}
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	if n := d.Reports(); n != reports {
		t.Errorf("%d reports were sent again, although nothing changed", n-reports)
	}

	// An edit between two starts: devices follow the newer term.
	s.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Spec.Score = deployment("hello", "a", "edited").Spec.Score })
	s.stop()
	s.start()
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	if m := newerManifest(t, d, after); m.Entries[0].Hash == after.Entries[0].Hash {
		t.Error("the edit did not reach the device")
	}
}

// A selector that changed while nobody watched must leave no key behind: the
// bucket is put back to what it was before the change.
func TestRestartSweepsOrphanKeys(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	s.stop()
	kept := filepath.Join(s.config.DataDir, "nats.kept")
	if err := os.CopyFS(kept, os.DirFS(filepath.Join(s.config.DataDir, "nats"))); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.edit("default", "hello", func(d *v1alpha1.Deployment) { d.Spec.TargetSelector.MatchLabels["group"] = "b" })
	s.keys()
	s.stop()
	replaceBus(t, s, kept)
	s.start()
	s.keys()
	runs(t, d)
}

func TestLostBucketsAreRebuilt(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, _ := s.device(sim.Config{Device: "edge-1", Token: s.token(map[string]string{"group": "a"})})
	s.create(deployment("hello", "a"))
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	before := runs(t, d, "default/hello")
	s.stop()
	replaceBus(t, s, "")
	s.start()
	s.keys("edge-1.default.hello")
	newerManifest(t, d, before)
	runs(t, d, "default/hello")
	s.aggregate("default", "hello", counts{1, 1, 0, 0})
	eventually(t, "inventory", func() error {
		d, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Spec.Inventory == nil || d.Spec.Inventory.Hostname != "edge-1" {
			return fmt.Errorf("it is %+v", d.Spec.Inventory)
		}
		return nil
	})
}

// replaceBus replaces the files of the bus with a copy, or with nothing.
func replaceBus(t *testing.T, s *server, copied string) {
	t.Helper()
	dir := filepath.Join(s.config.DataDir, "nats")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if copied == "" {
		return
	}
	if err := os.Rename(copied, dir); err != nil {
		t.Fatal(err)
	}
}

func newerManifest(t *testing.T, d *sim.Device, than wire.Manifest) wire.Manifest {
	t.Helper()
	var m wire.Manifest
	eventually(t, "a newer manifest", func() error {
		if m = d.Manifest(); !m.Newer(than.Version) {
			return fmt.Errorf("it is still %v", m.Version)
		}
		return nil
	})
	return m
}
