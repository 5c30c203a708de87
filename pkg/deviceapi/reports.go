package deviceapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const writeTimeout = 5 * time.Second

// reports writes what devices report to the buckets, and the digest of each report
// to the roster.
type reports struct {
	buckets *bus.Buckets
	roster  *roster.Roster
}

// load reads what the buckets hold.
func (r *reports) load(ctx context.Context) error {
	err := bus.Load(ctx, r.buckets.Info, func(key string, value []byte) {
		if device, err := wire.ParseInfoKey(key); err == nil {
			r.roster.InfoReported(device, wire.Sum(value))
		}
	})
	if err != nil {
		return err
	}
	return bus.Load(ctx, r.buckets.State, func(key string, value []byte) {
		if device, ref, err := wire.ParseStateKey(key); err == nil {
			r.roster.StateReported(device, ref, wire.Sum(value))
		}
	})
}

func (r *reports) putInfo(ctx context.Context, device string, payload []byte) error {
	key, err := wire.InfoKey(device)
	if err != nil {
		return err
	}
	if err := put(ctx, r.buckets.Info, key, payload); err != nil {
		return err
	}
	r.roster.InfoReported(device, wire.Sum(payload))
	return nil
}

func (r *reports) putState(ctx context.Context, device string, s wire.DeploymentState, payload []byte) error {
	key, err := wire.StateKey(device, s.DeploymentRef)
	if err != nil {
		return err
	}
	if s.Phase == wire.PhaseRemoved {
		if !r.roster.HasReported(device, s.DeploymentRef) {
			return nil // a key that never was would leave a marker in the bucket
		}
		return r.removeState(ctx, device, s.DeploymentRef, key)
	}
	if err := put(ctx, r.buckets.State, key, payload); err != nil {
		return err
	}
	r.roster.StateReported(device, s.DeploymentRef, wire.Sum(payload))
	return nil
}

func (r *reports) removeState(ctx context.Context, device string, ref wire.DeploymentRef, key string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := bus.Remove(ctx, r.buckets.State, key); err != nil {
		return asRefusal(err)
	}
	r.roster.StateRemoved(device, ref)
	return nil
}

// dropStale removes the reports of Deployments that are not in the device's
// manifest. A device that lost its memory would never name them again.
func (r *reports) dropStale(ctx context.Context, device string, m *wire.Manifest) error {
	for _, ref := range r.roster.Reported(device) {
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
	if err := bus.Remove(ctx, r.buckets.Info, info); err != nil {
		return err
	}
	if err := r.buckets.RemoveHeartbeat(ctx, device); err != nil {
		return err
	}
	r.roster.ReportsRemoved(device)
	return nil
}

func put(ctx context.Context, kv jetstream.KeyValue, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if _, err := kv.Put(ctx, key, value); err != nil {
		return asRefusal(fmt.Errorf("writing key %s to bucket %s: %w", key, kv.Bucket(), err))
	}
	return nil
}

// asRefusal has the device told that there is no room: it is no fault of the server's, of
// which the log tells already.
func asRefusal(err error) error {
	if errors.Is(err, bus.ErrNoRoom) {
		return &wire.Refusal{Code: wire.RefusedUnavailable, Message: err.Error()}
	}
	return err
}
