package bus

import (
	"context"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// beatInterval is how long heartbeats are gathered before they are written.
const beatInterval = time.Second

// beats gathers heartbeats. Each message through the bus wakes a handful of
// goroutines, which costs more than the rest of a heartbeat: those of one interval
// wake them once.
type beats struct {
	publish func(subject string, data []byte) error

	mu      sync.Mutex        // guards what follows; held while heartbeats are written
	pending map[string][]byte // by key
}

// Beat puts a heartbeat into the bucket for those who read it, within a second.
// Nothing says whether it got there: the next comes soon, and to wait for an answer
// costs ten times as much as the rest of a heartbeat.
func (b *Buckets) Beat(device string, heartbeat []byte) error {
	key, err := wire.HeartbeatKey(device)
	if err != nil {
		return err
	}
	b.beats.add(key, heartbeat)
	return nil
}

// RemoveHeartbeat removes a device's heartbeat, also one that is not written yet.
func (b *Buckets) RemoveHeartbeat(ctx context.Context, device string) error {
	key, err := wire.HeartbeatKey(device)
	if err != nil {
		return err
	}
	b.beats.drop(key)
	return Remove(ctx, b.Heartbeat, key)
}

func (b *beats) add(key string, heartbeat []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pending == nil {
		b.pending = map[string][]byte{}
		time.AfterFunc(beatInterval, b.write)
	}
	b.pending[key] = heartbeat
}

func (b *beats) drop(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pending, key)
}

func (b *beats) write() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, heartbeat := range b.pending {
		_ = b.publish("$KV."+wire.BucketDeviceHeartbeat+"."+key, heartbeat) // the next comes soon
	}
	b.pending = nil
}
