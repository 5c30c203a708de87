package roster_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/roster"
)

// rostertest is a roster with a clock, and what it asks of the outside.
type rostertest struct {
	*roster.Roster

	now time.Time
	// revoked and renewed are the keys that are refused for good.
	revoked, renewed map[string]bool

	dropped []uint64
	probes  int
	// changed counts how often the status of a device changed.
	changed map[string]int
	// shown counts what can wait of that.
	shown          int
	left, outdated []string
	strangers      []string
}

func newRoster() *rostertest {
	r := &rostertest{now: time.Unix(1_000_000, 0), revoked: map[string]bool{}, renewed: map[string]bool{}, changed: map[string]int{}}
	r.Roster = roster.New(roster.Config{Fleet: "fleet", Revoked: keys{r}, Outside: outside{r}, Now: func() time.Time { return r.now }})
	return r
}

// pass lets time pass.
func (r *rostertest) pass(d time.Duration) { r.now = r.now.Add(d) }

// drops returns the connections that were to be dropped since it was last asked.
func (r *rostertest) drops() []uint64 {
	ids := r.dropped
	r.dropped = nil
	return ids
}

// keys is the list of keys that are refused for good.
type keys struct{ r *rostertest }

func (k keys) Has(key string) bool             { return k.r.revoked[key] || k.r.renewed[key] }
func (k keys) Renewed(key string) bool         { return k.r.renewed[key] }
func (keys) Superseded(string, time.Time) bool { return false }

// outside remembers what it is asked for.
type outside struct{ r *rostertest }

func (o outside) Drop(connections []uint64) { o.r.dropped = append(o.r.dropped, connections...) }
func (o outside) StatusChanged(name string) { o.r.changed[name]++ }
func (o outside) NonceShown(string)         { o.r.shown++ }
func (o outside) Leaves(name string)        { o.r.left = append(o.r.left, name) }
func (o outside) Outdated(name string)      { o.r.outdated = append(o.r.outdated, name) }
func (o outside) Stranger(name, key string, expires time.Time) {
	o.r.strangers = append(o.r.strangers, fmt.Sprint(name, " ", key, " ", expires.Unix()))
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A mistake of the program, which whoever calls survives, keeps no other device waiting, and
// what was asked for before is done.
func TestAPanicLeavesTheRosterFree(t *testing.T) {
	t.Parallel()
	r := newRoster()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("nothing panicked: this test proves nothing")
			}
		}()
		r.WhileLocked(func(changed func(string)) {
			changed("edge-1")
			panic("a mistake")
		})
	}()
	free := make(chan int, 1)
	go func() { free <- r.Len() }()
	select {
	case <-free:
	case <-time.After(10 * time.Second):
		t.Fatal("the roster stays locked")
	}
	if n := r.changed["edge-1"]; n != 1 {
		t.Errorf("the status of the device is asked for %d times, want once", n)
	}
}
