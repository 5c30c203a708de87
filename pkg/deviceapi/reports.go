package deviceapi

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const writeTimeout = 5 * time.Second

// reports writes what devices report to the buckets, and remembers the digest
// of each report, so that one comparison tells whether a device and the server
// agree.
type reports struct {
	buckets *bus.Buckets

	mu      sync.RWMutex // guards devices
	devices map[string]*deviceReports
}

type deviceReports struct {
	info   wire.Digest
	states map[wire.DeploymentRef]wire.Digest
}

func newReports(buckets *bus.Buckets) *reports {
	return &reports{buckets: buckets, devices: map[string]*deviceReports{}}
}

// load reads what the buckets hold.
func (r *reports) load(ctx context.Context) error {
	err := bus.Load(ctx, r.buckets.Info, func(key string, value []byte) {
		if device, err := wire.ParseInfoKey(key); err == nil {
			r.of(device).info = wire.Sum(value)
		}
	})
	if err != nil {
		return err
	}
	return bus.Load(ctx, r.buckets.State, func(key string, value []byte) {
		if device, ref, err := wire.ParseStateKey(key); err == nil {
			r.of(device).states[ref] = wire.Sum(value)
		}
	})
}

// of returns the record of a device; the caller holds mu or is load.
func (r *reports) of(device string) *deviceReports {
	d := r.devices[device]
	if d == nil {
		d = &deviceReports{states: map[wire.DeploymentRef]wire.Digest{}}
		r.devices[device] = d
	}
	return d
}

// hashes returns what a device's InfoHash and StateHash should be.
func (r *reports) hashes(device string) (infoHash, stateHash string) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d := r.devices[device]
	if d == nil {
		return "", wire.StateHash(nil)
	}
	if d.info != (wire.Digest{}) {
		infoHash = d.info.String()
	}
	return infoHash, wire.StateHash(d.states)
}

func (r *reports) putInfo(ctx context.Context, device string, payload []byte) error {
	key, err := wire.InfoKey(device)
	if err != nil {
		return err
	}
	if err := put(ctx, r.buckets.Info, key, payload); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of(device).info = wire.Sum(payload)
	return nil
}

func (r *reports) putState(ctx context.Context, device string, s wire.DeploymentState, payload []byte) error {
	key, err := wire.StateKey(device, s.DeploymentRef)
	if err != nil {
		return err
	}
	if s.Phase == wire.PhaseRemoved {
		return r.removeState(ctx, device, s.DeploymentRef, key)
	}
	if err := put(ctx, r.buckets.State, key, payload); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of(device).states[s.DeploymentRef] = wire.Sum(payload)
	return nil
}

func (r *reports) removeState(ctx context.Context, device string, ref wire.DeploymentRef, key string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := bus.Remove(ctx, r.buckets.State, key); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of(device).states, ref)
	return nil
}

func (r *reports) putHeartbeat(ctx context.Context, device string, payload []byte) error {
	key, err := wire.HeartbeatKey(device)
	if err != nil {
		return err
	}
	return put(ctx, r.buckets.Heartbeat, key, payload)
}

// dropStale removes the reports of Deployments that are not in the device's
// manifest. A device that lost its memory would never name them again.
func (r *reports) dropStale(ctx context.Context, device string, m *wire.Manifest) error {
	r.mu.RLock()
	var held map[wire.DeploymentRef]wire.Digest
	if d := r.devices[device]; d != nil {
		held = maps.Clone(d.states)
	}
	r.mu.RUnlock()
	for ref := range held {
		if _, ok := m.Find(ref); ok {
			continue
		}
		key, err := wire.StateKey(device, ref)
		if err != nil {
			return err
		}
		if err := r.removeState(ctx, device, ref, key); err != nil {
			return err
		}
	}
	return nil
}

// forget removes everything that a device ever reported.
func (r *reports) forget(ctx context.Context, device string) error {
	if err := r.dropStale(ctx, device, &wire.Manifest{}); err != nil {
		return err
	}
	info, err := wire.InfoKey(device)
	if err != nil {
		return err
	}
	heartbeat, err := wire.HeartbeatKey(device)
	if err != nil {
		return err
	}
	if err := bus.Remove(ctx, r.buckets.Info, info); err != nil {
		return err
	}
	if err := bus.Remove(ctx, r.buckets.Heartbeat, heartbeat); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.devices, device)
	return nil
}

func put(ctx context.Context, kv jetstream.KeyValue, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if _, err := kv.Put(ctx, key, value); err != nil {
		return fmt.Errorf("writing key %s to bucket %s: %w", key, kv.Bucket(), err)
	}
	return nil
}
