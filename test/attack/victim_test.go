package attack_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	victims = 4
	// probeInterval is the time between two requests of one victim: within its
	// budgets, and often enough to notice a pause of the server.
	probeInterval = 16 * time.Millisecond
	// floor is how long a request may take anyway: below it a ratio says nothing.
	floor = 5 * time.Millisecond
)

// victim is a device that behaves, and remembers everything it receives.
type victim struct {
	*device

	ref   wire.DeploymentRef
	entry wire.Entry
	state []byte
	asked int
	// snapshots keeps it within its budget of them.
	snapshots *rate.Limiter

	mu      sync.Mutex // guards what follows
	pending map[string]chan []byte
	unasked []string
}

// newVictim enrolls a device with a Deployment of its own.
func (s *site) newVictim(i int) *victim {
	s.t.Helper()
	name := fmt.Sprintf("victim-%d", i)
	ref := s.deploy("default", name, name, "secret of "+name)
	d := s.enroll(s.t, s.token(map[string]string{"group": name}), name).connect()
	s.t.Cleanup(d.conn.Close)
	v := &victim{device: d, ref: ref, snapshots: rate.NewLimiter(1.8, 10), pending: map[string]chan []byte{}}
	for _, subject := range []string{d.inbox("v.>"), d.inbox(watchInbox), "fleet.v1.down." + name + "." + d.ID + ".>"} {
		_, err := d.conn.Subscribe(subject, v.hear)
		must(s.t, err)
	}
	v.entry = d.manifest(1).Entries[0]
	state, err := json.Marshal(wire.DeploymentState{DeploymentRef: ref, Phase: wire.PhaseRunning, Hash: v.entry.Hash, LastEventAt: time.Unix(1_000_000, 0).UTC()})
	must(s.t, err)
	v.state = state
	for kind, payload := range map[wire.Kind]any{
		wire.KindInfo: wire.DeviceInfo{Inventory: wire.Inventory{Hostname: name}}, wire.KindState: v.state,
	} {
		if a := d.request(kind, payload); a.Error != nil {
			s.t.Fatalf("%s of %s: %v", kind, name, a.Error)
		}
	}
	must(s.t, d.client().Heartbeat(wire.Heartbeat{At: 1, Uptime: 1}))
	return v
}

// hear takes everything that comes.
func (v *victim) hear(m *nats.Msg) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if waiting, ok := v.pending[m.Subject]; ok {
		delete(v.pending, m.Subject)
		waiting <- m.Data
		return
	}
	v.unasked = append(v.unasked, fmt.Sprintf("%s %.100q", m.Subject, m.Data))
}

// heard is how much came that it had not asked for.
func (v *victim) heard() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.unasked)
}

// probe asks once and returns how long the answer took.
func (v *victim) probe(ctx context.Context) (time.Duration, error) {
	v.asked++
	kind, payload := wire.KindBody, any(wire.BodyRequest{Hash: v.entry.Hash})
	switch {
	case v.asked%20 == 0 && v.snapshots.Allow():
		kind, payload = wire.KindSnapshot, v.snapshotRequest()
	case v.asked%5 == 1:
		kind, payload = wire.KindState, v.state
	}
	m := v.message(kind, payload)
	m.Reply = v.inbox(fmt.Sprintf("v.%d", v.asked))
	waiting := make(chan []byte, 1)
	v.mu.Lock()
	v.pending[m.Reply] = waiting
	v.mu.Unlock()
	begin := time.Now()
	if err := v.conn.PublishMsg(m); err != nil {
		return 0, fmt.Errorf("%s asks for %s: %w", v.name, kind, err)
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	select {
	case <-ctx.Done():
		return 0, fmt.Errorf("%s: no answer to %s: %w", v.name, kind, ctx.Err())
	case data := <-waiting:
		took := time.Since(begin)
		a, err := wire.DecodeReply[wire.SnapshotReply](kind, data) // others have no nonce
		if err != nil || a.Error != nil {
			return took, fmt.Errorf("%s: answer to %s is %.200q", v.name, kind, data)
		}
		v.keep(a.Nonce)
		return took, nil
	}
}

// probes are the response times of all victims, and what went wrong.
type probes struct {
	mu    sync.Mutex // guards what follows
	took  []time.Duration
	fails []error
}

func (p *probes) add(took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.fails = append(p.fails, err)
		return
	}
	p.took = append(p.took, took)
}

// stretch is how many requests, one after the other, are looked at together.
const stretch = 250

// p99 is the response time that one in a hundred exceeds: the median over stretches
// of the time that was measured. What else the machine does takes a moment, an attack
// goes on.
func (p *probes) p99() time.Duration {
	var each []time.Duration
	for part := range slices.Chunk(p.took, stretch) {
		if len(part) < stretch/2 && len(each) > 0 {
			break
		}
		part = slices.Sorted(slices.Values(part))
		each = append(each, part[len(part)*99/100])
	}
	if len(each) == 0 {
		return 0
	}
	slices.Sort(each)
	return each[len(each)/2]
}

// slower returns the one of two that took longer, with what went wrong in both.
func slower(a, b *probes) *probes {
	fails := slices.Concat(a.fails, b.fails)
	if b.p99() > a.p99() {
		a = b
	}
	a.fails = fails
	return a
}

// probing lets the victims work until stop is called and at least so many
// requests were made.
func probing(all []*victim, samples int) (stop func() *probes) {
	p, ended := &probes{}, make(chan struct{})
	var wg sync.WaitGroup
	for _, v := range all {
		wg.Go(func() {
			tick := time.NewTicker(probeInterval)
			defer tick.Stop()
			for n := 0; ; n++ {
				if n >= samples/len(all) {
					select {
					case <-ended:
						return
					default:
					}
				}
				<-tick.C
				took, err := v.probe(context.Background())
				if p.add(took, err); err != nil {
					return
				}
			}
		})
	}
	return func() *probes { close(ended); wg.Wait(); return p }
}

// checkAnswers fails unless every request was answered, and in strict mode
// nearly as fast as before.
func checkAnswers(t testing.TB, strict bool, before, during *probes) (slow bool) {
	t.Helper()
	for _, err := range slices.Concat(before.fails, during.fails) {
		t.Error(err)
	}
	was, is := before.p99(), during.p99()
	t.Logf("p99 of %d requests of others %s, without (%d) %s", len(during.took), is.Round(10*time.Microsecond), len(before.took), was.Round(10*time.Microsecond))
	return strict && is > max(floor, 2*was)
}
