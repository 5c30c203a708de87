package bus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestBucketsAreOpenedAgain(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	brokertest.Put(t, b.Buckets.Info, "info.edge-1", "kept")
	again, err := bus.Open(t.Context(), b.Core, 1)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"info.edge-1": "kept"}
	if diff := cmp.Diff(want, brokertest.Content(t.Context(), t, again.Info)); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
	for name, kv := range map[string]jetstream.KeyValue{
		wire.BucketDesiredState: again.DesiredState, wire.BucketDeviceInfo: again.Info,
		wire.BucketDeviceState: again.State, wire.BucketDeviceHeartbeat: again.Heartbeat,
	} {
		if kv.Bucket() != name {
			t.Errorf("bucket %s is where %s should be", kv.Bucket(), name)
		}
	}

	b.Shutdown()
	restarted, err := broker.Start(b.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(restarted.Shutdown)
	buckets, err := bus.Open(t.Context(), restarted.Core, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, brokertest.Content(t.Context(), t, buckets.Info)); diff != "" {
		t.Errorf("bucket after a restart (-want +got):\n%s", diff)
	}
}

// A removed key leaves one small marker, which goes by itself.
func TestRemovedKeysLeaveNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	kv := b.Buckets.State
	const key = "state.edge-1.shop.web"
	for range 3 {
		brokertest.Put(t, kv, key, "value")
		if err := bus.Remove(t.Context(), kv, key); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(b.Core)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "KV_"+wire.BucketDeviceState)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("the stream has %d messages, want the marker alone", n)
	}
	marker, err := stream.GetLastMsgForSubject(t.Context(), "$KV.device-state."+key)
	if err != nil {
		t.Fatal(err)
	}
	if got := marker.Header.Get("Nats-TTL"); got != bus.StateMarkerTTL.String() {
		t.Errorf("the marker's Nats-TTL is %q, want %s", got, bus.StateMarkerTTL)
	}
	if held := brokertest.Content(t.Context(), t, kv); len(held) > 0 {
		t.Errorf("the bucket holds %v", held)
	}
}

func TestLoadReadsWhatIsThere(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	kv := b.Buckets.DesiredState
	if held := brokertest.Content(t.Context(), t, kv); len(held) > 0 {
		t.Errorf("a new bucket holds %v", held)
	}
	brokertest.Put(t, kv, "edge-1.shop.web", "old")
	brokertest.Put(t, kv, "edge-1.shop.web", "new")
	brokertest.Put(t, kv, "edge-1.shop.api", "gone")
	brokertest.Put(t, kv, "edge-2.shop.web", "")
	if err := bus.Remove(t.Context(), kv, "edge-1.shop.api"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"edge-1.shop.web": "new", "edge-2.shop.web": ""}
	if diff := cmp.Diff(want, brokertest.Content(t.Context(), t, kv)); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
}

// Half a bucket must not be taken for all of it: what is missing would be
// taken for removed.
func TestInterruptedLoadIsAnError(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		interrupt func(b *brokertest.Bus, cancel func())
		is        error
	}{
		"the caller gives up":   {func(_ *brokertest.Bus, cancel func()) { cancel() }, context.Canceled},
		"the connection closes": {func(b *brokertest.Bus, _ func()) { b.Core.Close() }, nats.ErrConnectionClosed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := brokertest.Start(t, nil)
			const keys = 1000 // more than a watch buffers
			for i := range keys {
				brokertest.Put(t, b.Buckets.Heartbeat, fmt.Sprintf("heartbeat.edge-%d", i), "x")
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			seen := 0
			err := bus.Load(ctx, b.Buckets.Heartbeat, func(string, []byte) {
				if seen++; seen == 1 {
					tc.interrupt(b, cancel)
				}
			})
			if !errors.Is(err, tc.is) {
				t.Errorf("after %d of %d keys the error is %v, want %v", seen, keys, err, tc.is)
			}
		})
	}
}
