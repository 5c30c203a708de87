package device_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/deviceapi/identity"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// stuckDoor takes as long to tell a device as it may.
type stuckDoor struct {
	bus.Connections // nil: the rest is not called

	mu            sync.Mutex // guards what follows
	told, dropped map[string]bool
}

func (d *stuckDoor) Notice(device string, _ wire.Revocation) error {
	time.Sleep(200 * time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told[device] = true
	return errors.New("the bus is stuck")
}

func (d *stuckDoor) Drop(device string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropped[device] = true
}

func (d *stuckDoor) Forget(context.Context, string) error { return nil }

func (d *stuckDoor) Nudge(string) {}

// A hundred devices that are thrown out together are dropped within a second,
// even if none of them can be told, and are refused at once.
func TestManyLeaveTogether(t *testing.T) {
	t.Parallel()
	tombstones, err := identity.OpenTombstones(filepath.Join(t.TempDir(), "revoked-keys.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tombstones.Close() })
	synctest.Test(t, func(t *testing.T) {
		registry := identity.NewRegistry("fleet", tombstones)
		door, begin := &stuckDoor{told: map[string]bool{}, dropped: map[string]bool{}}, time.Now()
		c := device.New(device.Config{Registry: registry, Tombstones: tombstones, Door: door, Connections: door, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.RunLeaving(ctx) }()
		const many = 100
		for i := range many {
			name := fmt.Sprintf("edge-%d", i)
			registry.Bind(name, identity.Keys{Current: name})
			c.Expel(&v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.DeviceSpec{Revoked: true, OnRevoke: v1alpha1.RevokeWipe}})
			if err := registry.Check(name, name); !errors.Is(err, identity.ErrRevoked) || time.Since(begin) != 0 {
				t.Fatalf("after %s the device may come in: %v", time.Since(begin), err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		door.mu.Lock()
		told, dropped := len(door.told), len(door.dropped)
		door.mu.Unlock()
		if told != many || dropped != many {
			t.Errorf("after a second %d devices were told and %d dropped", told, dropped)
		}
		cancel()
		<-done
	})
}
