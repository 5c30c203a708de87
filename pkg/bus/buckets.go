package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// markerTTL is how long a bucket remembers that a key was deleted. For reports it is
// stateMarkerTTL: devices name them, and one that reports of a new name each time leaves
// a marker for each.
const (
	markerTTL      = time.Hour
	stateMarkerTTL = time.Minute
)

// Buckets are the open buckets of package wire.
type Buckets struct {
	DesiredState, Info, State, Heartbeat jetstream.KeyValue

	beats *beats
	stuck chan error
}

// Open opens the buckets over a connection, and creates those that are missing, each on so
// many servers. Their content can be rebuilt, so no write waits for the disk.
func Open(ctx context.Context, conn *nats.Conn, replicas int) (*Buckets, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	b := &Buckets{beats: &beats{publish: conn.Publish}}
	for _, bucket := range []struct {
		name    string
		storage jetstream.StorageType
		kv      *jetstream.KeyValue
	}{
		{wire.BucketDesiredState, jetstream.FileStorage, &b.DesiredState},
		{wire.BucketDeviceInfo, jetstream.FileStorage, &b.Info},
		{wire.BucketDeviceState, jetstream.FileStorage, &b.State},
		{wire.BucketDeviceHeartbeat, jetstream.MemoryStorage, &b.Heartbeat},
	} {
		kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: bucket.name, Storage: bucket.storage, LimitMarkerTTL: markerTTL, Replicas: replicas,
		})
		if err != nil {
			return nil, fmt.Errorf("opening bucket %s: %w", bucket.name, err)
		}
		*bucket.kv = kv
	}
	return b, nil
}

// Remove deletes a key so that its marker goes too, after a while. Without
// that, a bucket grows with every key that it ever had.
func Remove(ctx context.Context, kv jetstream.KeyValue, key string) error {
	ttl := markerTTL
	if kv.Bucket() == wire.BucketDeviceState {
		ttl = stateMarkerTTL
	}
	if err := kv.Purge(ctx, key, jetstream.PurgeTTL(ttl)); err != nil {
		return fmt.Errorf("removing key %s from bucket %s: %w", key, kv.Bucket(), err)
	}
	return nil
}

// Load calls each with every key and value that a bucket holds now.
func Load(ctx context.Context, kv jetstream.KeyValue, each func(key string, value []byte)) error {
	return watch(ctx, kv, func(e jetstream.KeyValueEntry) bool {
		if e == nil { // the end of what was there
			return false
		}
		each(e.Key(), e.Value())
		return true
	}, jetstream.IgnoreDeletes())
}

// Watch calls each with everything that a bucket holds and with every change,
// until ctx ends or the watch fails. It never returns nil.
func Watch(ctx context.Context, kv jetstream.KeyValue, each func(jetstream.KeyValueEntry)) error {
	return watch(ctx, kv, func(e jetstream.KeyValueEntry) bool {
		if e != nil {
			each(e)
		}
		return true
	})
}

// watch calls each until it returns false.
func watch(ctx context.Context, kv jetstream.KeyValue, each func(jetstream.KeyValueEntry) bool, opts ...jetstream.WatchOpt) error {
	w, err := kv.WatchAll(ctx, opts...)
	if err != nil {
		return fmt.Errorf("reading bucket %s: %w", kv.Bucket(), err)
	}
	defer stopWatch(w)
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("reading bucket %s: %w", kv.Bucket(), ctx.Err())
		case e, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("reading bucket %s: %w", kv.Bucket(), nats.ErrConnectionClosed)
			}
			if !each(e) {
				return nil
			}
		}
	}
}

// stopWatch ends a watch. A watch that is ended early may be blocked on a full
// channel, and would stay so: making room lets it go.
func stopWatch(w jetstream.KeyWatcher) {
	_ = w.Stop() // the connection may be closed already
	for {
		select {
		case _, open := <-w.Updates():
			if !open {
				return
			}
		default:
			return
		}
	}
}
