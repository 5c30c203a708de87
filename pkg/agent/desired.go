package agent

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// desired is what the device should run, in memory and on disk.
type desired struct {
	store *store.Store
	log   *slog.Logger

	mu sync.Mutex // guards what follows
	// manifest is the one that is followed, or nil.
	manifest *wire.Manifest
	// intact: it is the last one that was accepted, or none ever was. Otherwise the
	// last one was damaged on the disk.
	intact bool
	// previous is the one before; nil when there is none.
	previous *wire.Manifest
	// last is the version of the last manifest that was accepted, as far as that is known.
	last      wire.Version
	confirmed string
	memory    map[wire.DeploymentRef]store.Remembered
	// seen has the Deployments that drivers have something of.
	seen    map[wire.DeploymentRef]bool
	targets map[wire.DeploymentRef]plan.Verdict
	// forgotten are the Deployments that were forgotten since the last look began:
	// its answers may be older than that.
	forgotten map[wire.DeploymentRef]bool
}

// target is what becomes of one Deployment.
type target struct {
	verdict plan.Verdict
	// entry is that of the manifest when verdict is plan.Apply.
	entry wire.Entry
	// applied is the hash of the body that was last applied whole, or empty.
	applied string
	// appliedSecrets is the digest of the Secrets that it was applied with.
	appliedSecrets string
	retention      wire.VolumeRetention
	// known: the manifest, the memory or a driver names the Deployment.
	known bool
}

func loadDesired(s *store.Store, log *slog.Logger) *desired {
	d := &desired{
		store: s, log: log,
		memory: map[wire.DeploymentRef]store.Remembered{}, seen: map[wire.DeploymentRef]bool{}, forgotten: map[wire.DeploymentRef]bool{},
	}
	d.manifest, d.intact = s.Manifest()
	d.previous = s.PreviousManifest()
	memory := s.Memory()
	d.confirmed = memory.ConfirmedEpoch
	for _, r := range memory.Deployments {
		d.memory[r.DeploymentRef] = r
	}
	d.last = memory.Manifest
	if !d.intact {
		d.recall(&memory)
	}
	d.name(d.manifest) // a power cut may have come between the two writes
	d.decide()
	d.protect()
	return d
}

// recall replaces the last manifest, which was damaged, by what the memory keeps of it. A
// memory that knows no more than the previous manifest leaves that.
func (d *desired) recall(memory *store.Memory) {
	m := memory.Named()
	if m == nil || m.SameEpoch(d.have()) && !m.Newer(d.have()) {
		return
	}
	if d.manifest != nil {
		m.Servers = d.manifest.Servers
	}
	d.manifest, d.intact = m, true
	d.log.Warn("the damaged manifest is taken from the memory", "version", m.Version.String())
	if err := d.store.SaveManifest(m); err != nil {
		d.log.Warn("the damaged manifest could not be written again", "error", err)
	}
}

// protect writes the manifest once more that an earlier agent left without a checksum
// and without a previous one.
func (d *desired) protect() {
	if !d.intact || d.manifest == nil || d.previous != nil {
		return
	}
	if err := errors.Join(d.store.SaveManifest(d.manifest), d.save()); err != nil {
		d.log.Warn("a second copy of the manifest could not be written", "error", err)
		return
	}
	d.previous = d.manifest
}

// accept replaces the manifest when the new one may be used, and returns the
// Deployments for which something changed. Errors wrap wire.ErrManifest,
// plan.ErrOlder, or come from the disk; they leave everything as it was.
func (d *desired) accept(m *wire.Manifest) ([]wire.DeploymentRef, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	newer, err := plan.Accept(d.have(), m)
	if err != nil || !newer {
		return nil, err
	}
	// The manifest first: the memory follows from it, see loadDesired.
	if err := d.store.SaveManifest(m); err != nil {
		return nil, err
	}
	before := d.manifest
	if d.intact && before != nil {
		d.previous = before
	}
	d.manifest, d.intact = m, true
	if before == nil || !before.SameEpoch(m.Version) {
		d.confirmed = ""
	}
	d.name(m)
	d.decide()
	changed := d.changed(before)
	return changed, errors.Join(d.save(), d.collect())
}

// name remembers what a manifest names, which may be nil.
func (d *desired) name(m *wire.Manifest) {
	if m == nil {
		return
	}
	d.last = m.Version
	for _, e := range m.Entries {
		r := d.memory[e.DeploymentRef]
		r.DeploymentRef, r.Named, r.Entry, r.VolumeRetention, r.Left = e.DeploymentRef, m.Version, &e, e.VolumeRetention, false
		d.memory[e.DeploymentRef] = r
	}
}

// decide derives the verdicts from manifest, memory and what drivers have, and remembers
// what has to leave: a server that is restored before it knows that must not bring it back.
func (d *desired) decide() {
	known := make(map[wire.DeploymentRef]plan.Known, len(d.memory))
	for ref := range d.seen {
		known[ref] = plan.Known{}
	}
	for ref, r := range d.memory {
		known[ref] = plan.Known{Named: r.Named, Left: r.Left}
	}
	if !d.intact {
		d.targets = plan.Recalled(d.manifest, known)
		return
	}
	d.targets = plan.Targets(d.manifest, known, d.confirmed)
	for ref, r := range d.memory {
		r.Left = r.Left || d.targets[ref] == plan.Leave
		d.memory[ref] = r
	}
}

// changed lists the Deployments whose entry differs from the manifest before,
// or which have none.
func (d *desired) changed(before *wire.Manifest) []wire.DeploymentRef {
	var refs []wire.DeploymentRef
	for ref := range d.targets {
		now, there := d.manifest.Find(ref)
		if there && before != nil {
			if old, ok := before.Find(ref); ok && old == now {
				continue
			}
		}
		refs = append(refs, ref)
	}
	return refs
}

func (d *desired) have() wire.Version {
	if d.manifest == nil {
		return wire.Version{}
	}
	return d.manifest.Version
}

// save writes the memory; the caller holds mu.
func (d *desired) save() error {
	m := store.Memory{Manifest: d.last, ConfirmedEpoch: d.confirmed, Deployments: slices.Collect(maps.Values(d.memory))}
	slices.SortFunc(m.Deployments, func(a, b store.Remembered) int { return a.Compare(b.DeploymentRef) })
	for i := range m.Deployments {
		if r := &m.Deployments[i]; r.Named != d.last {
			r.Entry = nil
		}
	}
	return d.store.SaveMemory(m)
}

// collect removes bodies and secrets that neither the manifest nor the previous one
// names, and that nothing was made from; the caller holds mu.
func (d *desired) collect() error {
	if !d.intact {
		return nil // what the lost manifest names is not known
	}
	keep, secrets := map[string]bool{}, map[string]bool{}
	for _, m := range []*wire.Manifest{d.manifest, d.previous} {
		if m == nil {
			continue
		}
		for _, e := range m.Entries {
			keep[e.Hash] = true
			_, known := d.memory[e.DeploymentRef]
			secrets[e.SecretsDigest] = secrets[e.SecretsDigest] || known // those of what is gone are not kept
		}
	}
	for _, r := range d.memory {
		keep[r.Applied], secrets[r.AppliedSecrets] = true, true
	}
	return errors.Join(d.store.CollectBodies(keep), d.store.CollectSecrets(secrets))
}

// need is a body that the device has to have, and the digest of its Secrets, if any.
type need struct {
	deployment    wire.DeploymentRef
	hash, secrets string
}

// choice is what a Deployment runs without the server: what the manifest names, or else
// what was applied last. Either is zero when there is none.
type choice struct{ named, applied need }

// needs lists what is to run, by Deployment, and what the previous manifest named. intact
// is false when there was a later manifest.
func (d *desired) needs() (run []choice, before []need, intact bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, ref := range slices.SortedFunc(maps.Keys(d.targets), wire.DeploymentRef.Compare) {
		r := d.memory[ref]
		c := choice{applied: need{ref, r.Applied, r.AppliedSecrets}}
		switch c.named = c.applied; d.targets[ref] {
		case plan.Leave:
			continue
		case plan.Apply:
			e, _ := d.manifest.Find(ref)
			c.named = need{ref, e.Hash, e.SecretsDigest}
		}
		if c.named.hash != "" {
			run = append(run, c)
		}
	}
	if d.previous != nil {
		for _, e := range d.previous.Entries {
			if !e.Hold {
				before = append(before, need{e.DeploymentRef, e.Hash, e.SecretsDigest})
			}
		}
	}
	return run, before, d.intact
}

// target returns what becomes of one Deployment.
func (d *desired) target(ref wire.DeploymentRef) target {
	d.mu.Lock()
	defer d.mu.Unlock()
	verdict, known := d.targets[ref]
	r := d.memory[ref]
	t := target{verdict: verdict, applied: r.Applied, appliedSecrets: r.AppliedSecrets, retention: r.VolumeRetention, known: known}
	if !known {
		t.verdict = plan.Keep
	}
	if d.manifest != nil && verdict == plan.Apply {
		t.entry, _ = d.manifest.Find(ref)
	}
	return t
}

// apply remembers that a body was applied whole.
func (d *desired) apply(ref wire.DeploymentRef, hash, secretsDigest string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.memory[ref]
	if !ok || r.Applied == hash && r.AppliedSecrets == secretsDigest {
		return nil
	}
	r.Applied, r.AppliedSecrets = hash, secretsDigest
	d.memory[ref] = r
	return errors.Join(d.save(), d.collect())
}

// forget drops a Deployment that is gone, once the server knows it.
func (d *desired) forget(ref wire.DeploymentRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.targets[ref] != plan.Leave {
		return // it came back in the meantime
	}
	delete(d.memory, ref)
	delete(d.seen, ref)
	d.forgotten[ref] = true
	d.decide()
	if err := errors.Join(d.save(), d.collect()); err != nil {
		d.log.Warn("forgetting a Deployment failed", "deployment", ref, "error", err)
	}
}

// maxStrangers bounds the Deployments that nothing but a driver names: whoever took
// podman's place can invent any number.
const maxStrangers = wire.MaxEntries

// look is called when a look at all drivers begins. It returns the Deployments
// that were forgotten since the last one began: what drivers said of them before
// is over.
func (d *desired) look() (forgotten map[wire.DeploymentRef]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	forgotten, d.forgotten = d.forgotten, map[wire.DeploymentRef]bool{}
	return forgotten
}

// see notes which Deployments drivers have something of, but for those that were
// forgotten since the look began. It returns those of which nothing is left.
func (d *desired) see(refs map[wire.DeploymentRef]bool) (gone []wire.DeploymentRef) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.targets
	d.seen = map[wire.DeploymentRef]bool{}
	strangers := 0
	for _, ref := range slices.SortedFunc(maps.Keys(refs), wire.DeploymentRef.Compare) {
		if _, remembered := d.memory[ref]; remembered {
			d.seen[ref] = true
			continue
		}
		if d.forgotten[ref] {
			continue
		}
		if strangers++; strangers <= maxStrangers {
			d.seen[ref] = true
		}
	}
	d.decide()
	for ref := range before {
		if _, known := d.targets[ref]; !known {
			gone = append(gone, ref)
		}
	}
	return gone
}

// current is called when the server says that the device has its last manifest.
func (d *desired) current() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.intact || d.manifest == nil {
		return nil
	}
	if err := d.store.SaveManifest(d.manifest); err != nil {
		return err
	}
	d.intact = true
	d.name(d.manifest)
	d.decide()
	return d.save()
}

// damaged reports whether the last manifest is lost.
func (d *desired) damaged() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.intact
}

func (d *desired) confirm() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.confirmed = d.have().Epoch
	d.decide()
	return d.save()
}

func (d *desired) version() wire.Version {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.have()
}

func (d *desired) held() []wire.DeploymentRef {
	d.mu.Lock()
	defer d.mu.Unlock()
	return plan.Held(d.targets)
}

// refs lists every Deployment that the agent has to look after.
func (d *desired) refs() []wire.DeploymentRef {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.targets))
}

// servers lists the NATS URLs of the manifest.
func (d *desired) servers() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.manifest == nil {
		return nil
	}
	return d.manifest.Servers
}
