package deviceapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/deviceapi"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

var refs = []wire.DeploymentRef{
	{Namespace: "shop", Name: "api"}, {Namespace: "shop", Name: "web"}, {Namespace: "yard", Name: "web"},
}

// reporter is a device that remembers what it said, as an agent does.
type reporter struct {
	name    string
	buckets *bus.Buckets
	reports *deviceapi.Reports
	roster  *roster.Roster

	info   []byte
	states map[wire.DeploymentRef][]byte
}

// hashes are what an agent sends along with its requests.
func (r *reporter) hashes() (info, state string) {
	if r.info != nil {
		info = wire.Sum(r.info).String()
	}
	digests := map[wire.DeploymentRef]wire.Digest{}
	for ref, payload := range r.states {
		digests[ref] = wire.Sum(payload)
	}
	return info, wire.StateHash(digests)
}

func (r *reporter) PutInfo(t *rapid.T) {
	r.info = fmt.Appendf(nil, `{"inventory":{"hostname":"%d"}}`, rapid.IntRange(0, 3).Draw(t, "info"))
	if err := r.reports.PutInfo(context.Background(), r.name, r.info); err != nil {
		t.Fatal(err)
	}
}

func (r *reporter) PutState(t *rapid.T) {
	s := wire.DeploymentState{
		DeploymentRef: rapid.SampledFrom(refs).Draw(t, "ref"),
		Phase:         rapid.SampledFrom([]wire.Phase{wire.PhaseRunning, wire.PhaseFailed, wire.PhaseRemoved}).Draw(t, "phase"),
	}
	payload, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.reports.PutState(context.Background(), r.name, s, payload); err != nil {
		t.Fatal(err)
	}
	r.states[s.DeploymentRef] = payload
	if s.Phase == wire.PhaseRemoved {
		delete(r.states, s.DeploymentRef)
	}
}

func (r *reporter) DropStale(t *rapid.T) {
	m := &wire.Manifest{}
	for _, ref := range refs {
		if rapid.Bool().Draw(t, ref.String()) {
			m.Entries = append(m.Entries, wire.Entry{DeploymentRef: ref, Hold: true})
		}
	}
	if err := r.reports.DropStale(context.Background(), r.name, m); err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(r.states, func(ref wire.DeploymentRef, _ []byte) bool {
		return !slices.ContainsFunc(m.Entries, func(e wire.Entry) bool { return e.DeploymentRef == ref })
	})
}

func (r *reporter) Forget(t *rapid.T) {
	if err := r.reports.Forget(context.Background(), r.name); err != nil {
		t.Fatal(err)
	}
	r.info, r.states = nil, map[wire.DeploymentRef][]byte{}
}

// Restart reads everything again, as a server does that starts.
func (r *reporter) Restart(t *rapid.T) {
	r.roster = roster.New(roster.Config{})
	r.reports = deviceapi.NewReports(r.buckets, r.roster)
	if err := r.reports.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (r *reporter) Check(t *rapid.T) {
	wantInfo, wantState := r.hashes()
	info, state := r.roster.ReportHashes(r.name)
	if info != wantInfo || state != wantState {
		t.Fatalf("the server has %q, %q, the device %q, %q", info, state, wantInfo, wantState)
	}
}

func TestServerAndDeviceAgreeAboutReports(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	var n atomic.Int32
	rapid.Check(t, func(rt *rapid.T) {
		r := &reporter{
			name: fmt.Sprintf("edge-%d", n.Add(1)), buckets: b.Buckets, roster: roster.New(roster.Config{}), states: map[wire.DeploymentRef][]byte{},
		}
		r.reports = deviceapi.NewReports(b.Buckets, r.roster)
		rt.Repeat(rapid.StateMachineActions(r))
		want := map[string]string{}
		for ref, payload := range r.states {
			want["state."+r.name+"."+ref.Namespace+"."+ref.Name] = string(payload)
		}
		got := contentOf(t, b.Buckets.State, "state."+r.name+".")
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("bucket (-want +got):\n%s", diff)
		}
		r.Forget(rt)
	})
	if held := brokertest.Content(t.Context(), t, b.Buckets.Info); len(held) > 0 {
		t.Errorf("forgotten devices left %v", held)
	}
}

// contentOf returns the part of a bucket that is about one device.
func contentOf(t testing.TB, kv jetstream.KeyValue, prefix string) map[string]string {
	t.Helper()
	held := brokertest.Content(t.Context(), t, kv)
	maps.DeleteFunc(held, func(key, _ string) bool { return len(key) < len(prefix) || key[:len(prefix)] != prefix })
	return held
}

// A report that something was removed which nobody reported leaves nothing behind, not
// even a marker: a device could fill the bucket with those.
func TestRemovalOfNothingLeavesNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	devices := roster.New(roster.Config{})
	reports := deviceapi.NewReports(b.Buckets, devices)
	count := func() uint64 {
		status, err := b.Buckets.State.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.Values()
	}
	put := func(name string, phase wire.Phase) {
		s := wire.DeploymentState{DeploymentRef: wire.DeploymentRef{Namespace: "shop", Name: name}, Phase: phase}
		if err := reports.PutState(t.Context(), "edge-1", s, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		put(fmt.Sprintf("never-%d", i), wire.PhaseRemoved)
	}
	if n := count(); n != 0 {
		t.Errorf("the bucket has %d keys of what never was", n)
	}
	put("web", wire.PhaseRunning)
	put("web", wire.PhaseRemoved)
	if n := count(); n != 1 || devices.HasReported("edge-1", wire.DeploymentRef{Namespace: "shop", Name: "web"}) {
		t.Errorf("the bucket has %d keys after one removal, want its marker", n)
	}
}
