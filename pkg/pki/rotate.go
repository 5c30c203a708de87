package pki

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Rotate replaces the issuing authorities, and the root too if it is told so.
// What the ones before them issued stays trusted until Prune. A power cut at
// any moment leaves the old authorities or the new ones in force.
func (p *PKI) Rotate(root bool, now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := maps.Clone(p.index)
	signer := p.Root.newest()
	if root {
		g, err := p.newRoot(signer, now)
		if err != nil {
			return fmt.Errorf("making a new root: %w", err)
		}
		next.prepend(roleRoot, g.entry, now)
		signer = g
	}
	for _, role := range roles[1:] {
		g, err := p.create(role, newEntry(role), &signer, now)
		if err != nil {
			return fmt.Errorf("making a new %s authority: %w", role, err)
		}
		next.prepend(role, g.entry, now)
	}
	return p.commit(next)
}

// newRoot makes a root and the certificate of its key by the root before it.
func (p *PKI) newRoot(before generation, now time.Time) (generation, error) {
	g, err := p.create(roleRoot, newEntry(roleRoot), nil, now)
	if err != nil {
		return generation{}, err
	}
	cross, err := sign(authorityTemplate(g.Name, now), before.cert, before.key, &g.key.PublicKey, now.Add(rootValidity))
	if err != nil {
		return generation{}, err
	}
	return g, p.write(p.path(g.crossFile()), EncodeChain([]*x509.Certificate{cross}), 0o600)
}

// commit makes an index that of the directory and puts it in force.
func (p *PKI) commit(next index) error {
	if err := p.writeIndex(next); err != nil {
		return err
	}
	p.index = next
	if err := p.read(); err != nil {
		return err
	}
	return p.sweep()
}

// newEntry names a generation. Names never come again, so that what is left of
// a rotation is not taken for another.
func newEntry(role string) entry {
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	return entry{Name: role + "-" + hex.EncodeToString(id[:])}
}

func (i index) prepend(role string, e entry, now time.Time) {
	older := slices.Clone(i[role])
	older[0].Replaced = now
	i[role] = append([]entry{e}, older...)
}

// Uses is what depends on authorities: an old one is forgotten when everything
// was made after it was replaced.
type Uses struct {
	// Devices holds, for each device that was not revoked, when the
	// certificate that it uses was issued; the zero time when that is not known.
	Devices map[string]time.Time
	// Tokens holds, for each enrollment token that may still be used, when it
	// was created.
	Tokens map[string]time.Time
}

// Kept is an old authority that is still trusted, and why.
type Kept struct {
	Name string
	// Devices and Tokens depend on it, sorted.
	Devices, Tokens []string
	// Until is when the last kubeconfig that may depend on it expires, unless that
	// is past.
	Until time.Time
}

// Prune forgets old authorities that nothing depends on; with force those too
// that something does. It returns the names of what it forgot and what it kept.
//
// A device authority is needed by devices whose certificate is older than its
// replacement. So is a root: with a new certificate a device gets the new
// root. A root is needed by tokens too, which pin it, and, like an operator
// authority, by kubeconfigs, of which no list is kept: it is until the last
// one expired. A server authority is needed by nobody, since serving
// certificates are issued again at a rotation.
func (p *PKI) Prune(uses Uses, force bool, now time.Time) (forgotten []string, kept []Kept, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := maps.Clone(p.index)
	for _, role := range roles {
		// From the oldest on, and no further than the first that is needed: the way
		// to an old root leads over all that came after it.
		for len(next[role]) > 1 {
			oldest := next[role][len(next[role])-1]
			k := uses.of(role, oldest, now)
			if k.needed() && !force {
				kept = append(kept, k)
				break
			}
			forgotten = append(forgotten, oldest.Name)
			next[role] = slices.Clone(next[role][:len(next[role])-1])
		}
	}
	if len(forgotten) == 0 {
		return nil, kept, nil
	}
	return forgotten, kept, p.commit(next)
}

func (u Uses) of(role string, e entry, now time.Time) Kept {
	k := Kept{Name: e.Name}
	if role == roleDevice || role == roleRoot {
		k.Devices = before(u.Devices, e.Replaced)
	}
	if role == roleRoot {
		k.Tokens = before(u.Tokens, e.Replaced)
	}
	if until := e.Replaced.Add(operatorValidity); (role == roleOperator || role == roleRoot) && now.Before(until) {
		k.Until = until
	}
	return k
}

func (k Kept) needed() bool { return len(k.Devices)+len(k.Tokens) > 0 || !k.Until.IsZero() }

// before returns the names of what is not younger than t.
func before(made map[string]time.Time, t time.Time) []string {
	var names []string
	for name, at := range made {
		if !at.After(t) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
