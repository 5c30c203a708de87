package attack_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// attack is one thing that a device tries.
type attack struct {
	name string
	// do tries it; the device is connected. It fails the test when it sees that
	// the server let it.
	do      func(t *testing.T, d *device)
	outcome outcome
}

// outcome is what becomes of an attack: a refusal that is counted, or a reason
// why nothing is refused.
type outcome struct {
	// counted are the counters that rise by it.
	counted []string
	allowed string
}

func counts(names ...string) outcome { return outcome{counted: names} }

func allows(why string) outcome { return outcome{allowed: why} }

// arena is a site with victims.
type arena struct {
	*site

	scale   scale
	victims []*victim
	token   string
	// bystander is a device that came in before the attacks: enrolling one costs
	// the server more than most of them.
	bystander *device
	// beside is what other devices do all the time, during an attack and without,
	// beside what the victims do; may be nil.
	beside func(t *testing.T) (stop func())
	// seen is what the last look saw.
	seen look
}

func newArena(t *testing.T) *arena {
	t.Helper()
	a := &arena{site: newSite(t), scale: scaled()}
	for i := range victims {
		a.victims = append(a.victims, a.newVictim(i))
	}
	a.token = a.site.token(map[string]string{"group": "attackers"})
	a.bystander = a.attacker(t).connect()
	t.Cleanup(a.bystander.conn.Close)
	a.bystander.prove()
	a.deploy("default", attackerPrefix+"app", "attackers", strings.Repeat("x", largeBody))
	eventually(t, "aggregates", func() error {
		for _, v := range a.victims {
			d, err := a.client.Deployments(v.ref.Namespace).Get(t.Context(), v.ref.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if g := d.Status.Aggregate; g == nil || g.Succeeded != 1 || g.Offline != 0 {
				return fmt.Errorf("that of %s is %+v", v.name, g)
			}
			if _, err := a.ready.Buckets.Heartbeat.Get(t.Context(), "heartbeat."+v.name); err != nil { // they are written together
				return fmt.Errorf("heartbeat of %s: %w", v.name, err)
			}
		}
		return nil
	})
	a.seen = a.look(t, a.victims)
	return a
}

// largeBody is the size of what attackers run: large answers cost the most.
const largeBody = 200 << 10

// attacker returns a new device that is enrolled.
func (a *arena) attacker(t testing.TB) *device {
	t.Helper()
	return a.enroll(t, a.token, fmt.Sprintf("%s%d", attackerPrefix, a.attackers.Add(1)))
}

// rounds is how often an attack has to slow others down to be taken for the
// reason: the machine is shared.
const rounds = 3

// run carries out attacks, one after the other.
func (a *arena) run(t *testing.T, attacks []attack) {
	t.Helper()
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			if (len(attack.outcome.counted) == 0) == (attack.outcome.allowed == "") {
				t.Fatal("either a refusal is counted, or there is a reason why nothing is refused")
			}
			for round := 1; a.round(t, attack); round++ {
				if round == rounds {
					t.Error("other devices wait more than twice as long")
					return
				}
			}
		})
	}
}

// round carries out an attack once and reports whether others were slowed down.
func (a *arena) round(t *testing.T, attack attack) (slow bool) {
	t.Helper()
	counters := a.scrape(t)
	baseline := a.probing(t)()
	d := a.attacker(t).connect()
	defer d.conn.Close()
	d.prove()
	stop := a.probing(t)
	func() {
		defer func() {
			during := stop()
			if a.scale.strict { // what else the machine does may have begun meanwhile
				baseline = slower(baseline, a.probing(t)())
			}
			slow = checkAnswers(t, a.scale.strict, baseline, during)
		}()
		attack.do(t, d)
	}()
	a.seen = a.unchanged(t, a.victims, a.seen)
	a.counted(t, counters, attack.outcome.counted)
	return slow
}

// probing lets the victims work, and who is beside them, until stop is called.
func (a *arena) probing(t *testing.T) (stop func() *probes) {
	rest := func() {}
	if a.beside != nil {
		rest = a.beside(t)
	}
	ended := probing(a.victims, a.scale.samples)
	return func() *probes {
		defer rest()
		return ended()
	}
}

// flooding calls f until the time of a flood is over: as fast as it can, or in
// strict mode so often a second. The attacker works on the same processors, so
// that without a bound its own work would be measured.
func (a *arena) flooding(perSecond int, f func(i int)) {
	next := a.pace(perSecond)
	end := time.Now().Add(a.scale.flood)
	for i := 0; time.Now().Before(end); i++ {
		next()
		f(i)
	}
}

// pace returns a function that waits for the next of so many moments a second,
// in strict mode.
func (a *arena) pace(perSecond int) (next func()) {
	if !a.scale.strict {
		return func() {}
	}
	const atOnce = 10
	l := rate.NewLimiter(rate.Limit(perSecond), atOnce)
	return func() { _ = l.Wait(context.Background()) } // only a context makes it fail
}
