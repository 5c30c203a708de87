package rollout_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/rollout"
)

// However devices disconnect, restart the controllers and report: a rollout that fails ends where
// it began, and whoever was not reached is never touched.
func TestRollbackEndsWhereItBeganHoweverItWent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(r, "devices")
		f := newFleet(t, n, strict(func(s *rollout.Spec) {
			s.OnFailure = rollout.Rollback
			s.MaxUnavailable = rollout.Amount{N: rapid.IntRange(1, 3).Draw(r, "budget")}
			if limit := rapid.IntRange(0, 3).Draw(r, "limit"); limit > 0 {
				s.Batches = []rollout.Batch{{Limit: &rollout.Amount{N: limit}}}
			}
		}))
		f.target("r1")
		reached := map[string]bool{}
		next := func() {
			f.next()
			for _, o := range f.last.Orders {
				if reached[o.Device] = reached[o.Device] || o.Revision == "r1"; !reached[o.Device] {
					r.Fatalf("%s is given %s, and was never reached", o.Device, o.Revision)
				}
			}
			if f.says.Phase == rollout.Complete {
				r.Skip("all went well")
			}
		}
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			next()
			name := fmt.Sprintf("d%02d", rapid.IntRange(0, n-1).Draw(r, "device"))
			switch d := f.facts[name]; rapid.IntRange(0, 4).Draw(r, "what") {
			case 0:
				f.connect(!d.Connected, name)
			case 1:
				f.restart("r1")
			case 2:
				f.wait(time.Minute)
			default:
				if d.Given == "r1" && rapid.IntRange(0, 2).Draw(r, "bad") == 0 {
					f.report(rollout.Failed, name)
				} else {
					f.ready(name)
				}
			}
		}
		if next(); f.says.Phase != rollout.RollingBack && f.says.Phase != rollout.RolledBack {
			r.Skip("nobody failed")
		}
		f.connect(true, f.names()...)
		for range 3 * n {
			next()
			f.ready(f.names()...)
		}
		if next(); f.says.Phase != rollout.RolledBack {
			r.Fatalf("it is %s: %s", f.says.Phase, f.says.Message)
		}
		for _, name := range f.names() {
			if d := f.facts[name]; d.Given != "r0" {
				r.Fatalf("%s ends with %s", name, d.Given)
			}
		}
	})
}
