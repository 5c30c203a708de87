package agent_test

import (
	"fmt"
	"testing"
	"time"
)

// sent counts the reports about Deployments that the gateway was sent.
func (d *device) sent() (n int) {
	d.gateway.look(func() { n = d.gateway.reports })
	return n
}

// The first change is reported at once, what follows within a second together, and the last
// state always.
func TestReportsAreCoalesced(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		before := d.sent()
		d.gateway.issue("e1", deployments{web: {"front": command("first")}})
		d.pass(10 * time.Millisecond)
		if n := d.sent() - before; n != 1 {
			t.Errorf("%d reports at once, want one", n)
		}
		const changes, seconds = 15, 3
		for n := range changes {
			d.gateway.issue("e1", deployments{web: {"front": command(fmt.Sprint(n))}})
			d.pass(seconds * time.Second / changes)
		}
		if n := d.sent() - before; n < 2 || n > 1+seconds {
			t.Errorf("%d reports of %d changes in %d seconds", n, changes, seconds)
		}
		d.pass(time.Second)
		if s := d.gateway.state(web); s.Hash != d.gateway.manifest.Entries[0].Hash {
			t.Errorf("the last report is about %s, not about the last manifest", s.Hash)
		}
	})
}
