package bus_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/bus"
)

// smallDisk has so many bytes free.
type smallDisk struct {
	mu   sync.Mutex // guards what follows
	free int64
	full time.Time
}

var errFull = errors.New("0.1 of 64.0 MiB are free")

// Room implements bus.Disk.
func (d *smallDisk) Room(bytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.free < 8<<20 { // as the API store's reserve
		d.full = time.Now()
	}
	if d.free < bytes {
		return errFull
	}
	return nil
}

// LastFull implements bus.Disk.
func (d *smallDisk) LastFull() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.full
}

func (d *smallDisk) has(free int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = free
}

// What there is no room for is refused before JetStream has it, and says how much room
// there is. Removals go on for longer. When there is room again, all of it goes on.
func TestAFullDiskIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	disk := &smallDisk{free: 64 << 20}
	b.Buckets.Bound(disk)
	const key = "state.edge-1.shop.web"
	for name, kv := range map[string]jetstream.KeyValue{"State": b.Buckets.State, "Info": b.Buckets.Info, "DesiredState": b.Buckets.DesiredState} {
		for _, step := range []struct {
			free         int64
			puts, purges bool
		}{{64 << 20, true, true}, {1 << 20, false, true}, {0, false, false}, {64 << 20, true, true}} {
			disk.has(step.free)
			_, err := kv.Put(t.Context(), key, []byte("v"))
			if (err == nil) != step.puts || err != nil && (!errors.Is(err, bus.ErrNoRoom) || !strings.Contains(err.Error(), errFull.Error())) {
				t.Errorf("%s, %d bytes are free: a write ends with %v", name, step.free, err)
			}
			err = bus.Remove(t.Context(), kv, key)
			if (err == nil) != step.purges || err != nil && !errors.Is(err, bus.ErrNoRoom) {
				t.Errorf("%s, %d bytes are free: a removal ends with %v", name, step.free, err)
			}
		}
	}
	select {
	case err := <-b.Buckets.Stuck():
		t.Errorf("buckets that work are stuck: %v", err)
	default:
	}
}

// silent is a bucket that answers no write for as long as it is dead.
type silent struct {
	jetstream.KeyValue
	dead bool
}

func (*silent) Bucket() string { return "silent" }

func (s *silent) Put(ctx context.Context, _ string, _ []byte) (uint64, error) {
	if !s.dead {
		return 1, nil
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// A bucket is stuck if it answers nothing after the disk was full, and there is room. One
// that is slow for another reason, or still has no room, is not.
func TestAStuckBucketIsFound(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		wasFull, isFull, wrote, stuck bool
		free                          int64
	}{
		"slow":                   {false, false, false, false, 64 << 20},
		"stuck":                  {true, false, false, true, 64 << 20},
		"recovered, then slow":   {true, false, true, false, 64 << 20},
		"still full":             {true, true, false, false, 64 << 20},
		"slow, with little room": {false, false, true, false, 5 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				kv, disk := &silent{}, &smallDisk{free: tc.free}
				buckets := &bus.Buckets{State: kv, Info: kv, DesiredState: kv}
				buckets.Bound(disk)
				put := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					_, err := buckets.State.Put(ctx, "a", nil)
					return err
				}
				time.Sleep(time.Second)
				if tc.wasFull {
					disk.has(0)
					if err := put(); !errors.Is(err, bus.ErrNoRoom) {
						t.Errorf("a write to a full disk ends with %v", err)
					}
					disk.has(tc.free)
				}
				time.Sleep(time.Second)
				if tc.wrote {
					if err := put(); err != nil {
						t.Error(err)
					}
				}
				kv.dead = true
				if tc.isFull { // while it is written
					time.AfterFunc(time.Second, func() { disk.has(0) })
				}
				if err := put(); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a write that is not answered ends with %v", err)
				}
				_ = put() // which is told once
				select {
				case err := <-buckets.Stuck():
					if !tc.stuck || !errors.Is(err, bus.ErrStuck) || !strings.Contains(err.Error(), "bucket silent") {
						t.Errorf("it is said to be stuck: %v", err)
					}
				default:
					if tc.stuck {
						t.Error("nothing is said")
					}
				}
			})
		})
	}
}
