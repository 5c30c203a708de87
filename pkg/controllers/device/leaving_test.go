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
	"fleet.nationtech.io/fleet/pkg/controllers/device"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// stuckDoor takes as long to tell a device as it may. It is what the roster asks
// things of, too.
type stuckDoor struct {
	leaves func(device string)

	mu      sync.Mutex // guards what follows
	told    map[string]bool
	dropped map[uint64]bool
	// settled has the uses of tokens that were counted, as "token number".
	settled []string
}

func (d *stuckDoor) Notice(device string, _ wire.Revocation) error {
	time.Sleep(200 * time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told[device] = true
	return errors.New("the bus is stuck")
}

func (d *stuckDoor) Drop(connections []uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range connections {
		d.dropped[id] = true
	}
}

func (d *stuckDoor) Leaves(device string) { d.leaves(device) }

func (d *stuckDoor) StatusChanged(string) {}
func (d *stuckDoor) NonceShown(string)    {}

func (d *stuckDoor) Outdated(string) {}

func (d *stuckDoor) Stranger(string, string, time.Time) {}

func (d *stuckDoor) Forget(context.Context, string) error { return nil }

func (d *stuckDoor) Nudge(string) {}

func (d *stuckDoor) Settle(_ context.Context, token string, number int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled = append(d.settled, fmt.Sprintf("%s %d", token, number))
	return nil
}

// A hundred devices that are revoked together are dropped within a second,
// even if none of them can be told, and are refused at once.
func TestManyLeaveTogether(t *testing.T) {
	t.Parallel()
	tombstones, err := tombstone.Open(filepath.Join(t.TempDir(), "revoked-keys.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tombstones.Close() })
	synctest.Test(t, func(t *testing.T) {
		door, begin := &stuckDoor{told: map[string]bool{}, dropped: map[uint64]bool{}}, time.Now()
		devices := roster.New(roster.Config{Fleet: "fleet", Revoked: tombstones, Outside: door})
		c := device.New(device.Config{Roster: devices, Tombstones: tombstones, Door: door, Logger: slog.New(slog.DiscardHandler)})
		door.leaves = c.Leaves
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.RunLeaving(ctx) }()
		const many = 100
		for i := range many {
			name := fmt.Sprintf("edge-%d", i)
			devices.Bind(name, roster.Keys{Current: name})
			if _, err := devices.Connected(name, roster.Connection{ID: uint64(i), Session: name}); err != nil {
				t.Fatal(err)
			}
			c.Refuse(&v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.DeviceSpec{Revoked: true, OnRevoke: v1alpha1.RevokeWipe}})
			if err := devices.Check(name, name); !errors.Is(err, roster.ErrRevoked) || time.Since(begin) != 0 {
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
