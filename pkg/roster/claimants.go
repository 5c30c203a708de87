package roster

import (
	"cmp"
	"slices"
	"time"
)

// hearAgainAfter is how long a session in quarantine was not heard when it counts as a
// change that it is.
const hearAgainAfter = time.Minute

// Claimants returns the sessions that claim to be the device: the current one,
// if there is one, then those in quarantine by turns, then the one whose
// key was retired, while that is why a copy is suspected.
func (r *Roster) Claimants(name string) (claimants []Claimant) {
	r.look(name, func(d *device) { claimants = d.claimants() })
	return claimants
}

func (d *sessions) claimants() (claimants []Claimant) {
	add := func(c Claimant) { // people tell them apart by their labels
		if !slices.ContainsFunc(claimants, func(k Claimant) bool { return k.Label == c.Label }) {
			claimants = append(claimants, c)
		}
	}
	if d.current.Session != "" {
		add(d.current)
	}
	for _, c := range byTurns(d.quarantined) {
		add(c)
	}
	if d.suspicion == RetiredKey && d.presenter.Proof.Key != "" {
		add(d.presenter)
	}
	return claimants
}

// byTurns returns claimants in the order in which people should see them: the one that
// was heard last first, but one of each network and hardware before any second one, and
// then one of each network. So whoever comes in under many names hides nobody else.
func byTurns(claimants []Claimant) []Claimant {
	type ranked struct {
		Claimant
		ofMachine, ofNetwork int
	}
	order := slices.Clone(claimants)
	slices.Reverse(order)
	slices.SortStableFunc(order, func(a, b Claimant) int { return b.heard.Compare(a.heard) })
	machines, networks := map[[2]string]int{}, map[string]int{}
	all := make([]ranked, 0, len(order))
	for _, c := range order {
		from := network(c.Proof.Address)
		machine := [2]string{from, c.Hardware}
		all = append(all, ranked{c, machines[machine], networks[from]})
		machines[machine]++
		networks[from]++
	}
	slices.SortStableFunc(all, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.ofMachine, b.ofMachine), cmp.Compare(a.ofNetwork, b.ofNetwork))
	})
	for i, c := range all {
		order[i] = c.Claimant
	}
	return order
}

// hearAgain notes that a session in quarantine asks again, and reports whether people
// should see that.
func (d *sessions) hearAgain(c Claimant) (changed bool) {
	for i, q := range d.quarantined {
		if q.Session == c.Session {
			d.quarantined[i] = c
			return c.heard.Sub(q.heard) >= hearAgainAfter
		}
	}
	return false
}
