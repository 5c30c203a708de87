package assignment

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrNotReady: what should run where is not complete yet. What is missing might only
// be unknown.
var ErrNotReady = errors.New("manifests are not ready")

// Device is what matching needs to know of a Device.
type Device struct {
	Name   string
	Labels map[string]string
	// AllowedNamespaces is nil when every namespace may target the device.
	AllowedNamespaces []string
	Unschedulable     bool
	Revoked           bool
	// Offline is counted in aggregates.
	Offline bool
	// Capabilities is what the agent said it can do; nil when it did not say.
	Capabilities []wire.Capability
}

// Deployment is what matching needs to know of a Deployment.
type Deployment struct {
	wire.DeploymentRef
	// Generation is that of the object whose facts these are.
	Generation int64
	// Selector reports whether it matches the labels of a device.
	Selector func(labels map[string]string) bool
	// Accepted: Entry and Body may be sent. Otherwise matched devices are asked
	// to keep what they run.
	Accepted bool
	// Deleting: the Deployment matches nothing any more.
	Deleting bool
	Entry    wire.Entry
	Body     []byte
	// Secrets are the names of the Secrets that the score needs.
	Secrets []string
	// Needs is what an agent must be able to do. Others are asked to keep what they
	// run.
	Needs []wire.Capability
}

// Key names a key of bucket desired-state.
type Key struct {
	Device string
	wire.DeploymentRef
}

// Changes is what a change of the table asks to be carried out.
type Changes struct {
	// Keys of the bucket whose value changed or went.
	Keys []Key
	// Devices whose manifest changed.
	Devices []string
	// Deployments whose status may have changed.
	Deployments []wire.DeploymentRef
	// Lacks are the devices whose Lacks may have changed.
	Lacks []string
}

func (c *Changes) add(o Changes) {
	c.Keys = append(c.Keys, o.Keys...)
	c.Devices = append(c.Devices, o.Devices...)
	c.Deployments = append(c.Deployments, o.Deployments...)
	c.Lacks = append(c.Lacks, o.Lacks...)
}

// target is one Deployment on one device.
type target struct {
	// issued is what the device was told to run, zero if nothing yet. It is the
	// value of the key in the bucket.
	issued wire.Entry
	// hold: the manifest asks the device to keep what it runs.
	hold bool
	// reserved: the device takes no new Deployments, so this one does not count
	// as matched. The hold is there in case the device runs it although the
	// bucket, which would tell, was lost.
	reserved bool
	// outdated: the agent lacks what the Deployment needs.
	outdated bool
}

func (t target) entry(ref wire.DeploymentRef) wire.Entry {
	if t.hold {
		return wire.Entry{DeploymentRef: ref, Hold: true}
	}
	return t.issued
}

type deviceRecord struct {
	Device
	seq     uint64
	targets map[wire.DeploymentRef]target
	states  map[wire.DeploymentRef]wire.DeploymentState
}

type deploymentRecord struct {
	Deployment
	// devices are those that have a target for it.
	devices map[string]struct{}
}

// Table holds what should run where, and what devices report. Its methods may
// be called from several goroutines.
type Table struct {
	mu sync.RWMutex // guards everything below
	// seq is the highest that any device has. One for all, because a device that
	// is deleted and enrolls again must not see its numbers begin anew.
	seq         uint64
	devices     map[string]*deviceRecord
	deployments map[wire.DeploymentRef]*deploymentRecord
	// prior is what the bucket held at the start.
	prior map[Key]wire.Entry
	// orphans are states of devices that the table does not have yet.
	orphans map[Key]wire.DeploymentState
}

// NewTable returns an empty table. prior is the content of bucket
// desired-state: it tells which Deployments an unschedulable device already has.
func NewTable(prior map[Key]wire.Entry) *Table {
	return &Table{
		devices: map[string]*deviceRecord{}, deployments: map[wire.DeploymentRef]*deploymentRecord{},
		prior: prior, orphans: map[Key]wire.DeploymentState{},
	}
}

// SetDevice adds or updates a device.
func (t *Table) SetDevice(d Device) Changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := t.devices[d.Name]
	if rec == nil {
		t.seq++
		rec = &deviceRecord{seq: t.seq, targets: map[wire.DeploymentRef]target{}, states: map[wire.DeploymentRef]wire.DeploymentState{}}
		t.devices[d.Name] = rec
		t.claimOrphans(d.Name, rec)
	}
	presence := rec.Offline != d.Offline
	rec.Device = d
	var c Changes
	for _, dep := range t.deployments {
		c.add(t.match(rec, dep))
	}
	if presence {
		c.Deployments = slices.AppendSeq(c.Deployments, maps.Keys(rec.targets))
	}
	return c
}

// RemoveDevice removes a device that was deleted.
func (t *Table) RemoveDevice(name string) Changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := t.devices[name]
	if rec == nil {
		return Changes{}
	}
	var c Changes
	for ref := range rec.targets {
		delete(t.deployments[ref].devices, name)
		c.Keys = append(c.Keys, Key{name, ref})
		c.Deployments = append(c.Deployments, ref)
	}
	delete(t.devices, name)
	return c
}

// SetDeployment adds or updates a Deployment.
func (t *Table) SetDeployment(d Deployment) Changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := t.deployments[d.DeploymentRef]
	if rec == nil {
		rec = &deploymentRecord{devices: map[string]struct{}{}}
		t.deployments[d.DeploymentRef] = rec
	}
	rec.Deployment = d
	c := Changes{Deployments: []wire.DeploymentRef{d.DeploymentRef}}
	for _, dev := range t.devices {
		c.add(t.match(dev, rec))
	}
	return c
}

// RemoveDeployment removes a Deployment that was deleted.
func (t *Table) RemoveDeployment(ref wire.DeploymentRef) Changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := t.deployments[ref]
	if rec == nil {
		return Changes{}
	}
	rec.Deleting = true
	c := Changes{Deployments: []wire.DeploymentRef{ref}}
	for name := range maps.Clone(rec.devices) {
		c.add(t.match(t.devices[name], rec))
	}
	delete(t.deployments, ref)
	return c
}

// match brings the target of one Deployment on one device up to date.
func (t *Table) match(dev *deviceRecord, dep *deploymentRecord) Changes {
	old, had := dev.targets[dep.DeploymentRef]
	if !had {
		old.issued = t.prior[Key{dev.Name, dep.DeploymentRef}]
	}
	now, wanted := decide(dev.Device, dep.Deployment, old)
	var outdated []string
	if old.outdated || now.outdated { // what is missing may be something else by now
		outdated = []string{dev.Name}
	}
	if !wanted {
		if !had {
			return Changes{}
		}
		delete(dev.targets, dep.DeploymentRef)
		delete(dep.devices, dev.Name)
	} else {
		if had && now == old {
			return Changes{Lacks: outdated}
		}
		dev.targets[dep.DeploymentRef] = now
		dep.devices[dev.Name] = struct{}{}
	}
	c := Changes{
		Keys:        []Key{{dev.Name, dep.DeploymentRef}},
		Deployments: []wire.DeploymentRef{dep.DeploymentRef},
		Lacks:       outdated,
	}
	if had != wanted || now.entry(dep.DeploymentRef) != old.entry(dep.DeploymentRef) {
		t.seq++
		dev.seq = t.seq
		c.Devices = []string{dev.Name}
	}
	return c
}

// decide is the rule of matching.
func decide(dev Device, dep Deployment, old target) (now target, wanted bool) {
	if dep.Deleting || dev.Revoked || !dev.allows(dep.Namespace) || !dep.Selector(dev.Labels) {
		return target{}, false
	}
	reserved := dev.Unschedulable && old.issued == wire.Entry{}
	outdated := dep.Accepted && !reserved && len(wire.Missing(dev.Capabilities, dep.Needs)) > 0
	if reserved || outdated || !dep.Accepted {
		return target{issued: old.issued, hold: true, reserved: reserved, outdated: outdated}, true
	}
	return target{issued: dep.Entry}, true
}

func (d *Device) allows(namespace string) bool {
	return d.AllowedNamespaces == nil || slices.Contains(d.AllowedNamespaces, namespace)
}

// Manifest returns the entries of a device's manifest, ordered, and their
// sequence number. It returns false for a device that the table does not have,
// and for one that is on its way out: it must not take the end of its
// membership for an order to stop everything.
func (t *Table) Manifest(device string) (entries []wire.Entry, seq uint64, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	rec := t.devices[device]
	if rec == nil || rec.Revoked {
		return nil, 0, false
	}
	entries = make([]wire.Entry, 0, len(rec.targets))
	for ref, target := range rec.targets {
		entries = append(entries, target.entry(ref))
	}
	slices.SortFunc(entries, func(a, b wire.Entry) int { return a.Compare(b.DeploymentRef) })
	return entries, rec.seq, true
}

// Body returns a body that the manifest of the device names.
func (t *Table) Body(device, hash string) ([]byte, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	rec := t.devices[device]
	if rec == nil {
		return nil, false
	}
	for ref, target := range rec.targets {
		if dep := t.deployments[ref]; !target.hold && target.issued.Hash == hash && dep.Entry.Hash == hash {
			return dep.Body, true
		}
	}
	return nil, false
}

// NeedsSecret reports whether a score in the manifest of the device names the
// Secret.
func (t *Table) NeedsSecret(device, namespace, name string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	rec := t.devices[device]
	if rec == nil || rec.Revoked {
		return false
	}
	for ref, target := range rec.targets {
		if ref.Namespace == namespace && !target.hold && slices.Contains(t.deployments[ref].Secrets, name) {
			return true
		}
	}
	return false
}

// Lack is what the agent of a device lacks for a Deployment.
type Lack struct {
	wire.DeploymentRef
	Missing []wire.Capability
}

// Lacks returns what the agent of a device lacks, ordered. The device keeps what
// it runs of these Deployments.
func (t *Table) Lacks(device string) (lacks []Lack) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	rec := t.devices[device]
	if rec == nil {
		return nil
	}
	for ref, target := range rec.targets {
		if target.outdated {
			lacks = append(lacks, Lack{ref, wire.Missing(rec.Capabilities, t.deployments[ref].Needs)})
		}
	}
	slices.SortFunc(lacks, func(a, b Lack) int { return a.Compare(b.DeploymentRef) })
	return lacks
}

// Issued returns the value that the bucket should hold under a key.
func (t *Table) Issued(k Key) (wire.Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.issued(k)
}

func (t *Table) issued(k Key) (wire.Entry, bool) {
	rec := t.devices[k.Device]
	if rec == nil {
		return wire.Entry{}, false
	}
	issued := rec.targets[k.DeploymentRef].issued
	return issued, issued != wire.Entry{}
}

// Diff compares the table with what the bucket holds and returns the keys
// that have to be written or removed.
func (t *Table) Diff(bucket map[Key]wire.Entry) []Key {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var keys []Key
	for name, rec := range t.devices {
		for ref, target := range rec.targets {
			k := Key{name, ref}
			if target.issued != (wire.Entry{}) && bucket[k] != target.issued {
				keys = append(keys, k)
			}
		}
	}
	for k := range bucket {
		if _, wanted := t.issued(k); !wanted {
			keys = append(keys, k)
		}
	}
	return keys
}

// Settle forgets what the bucket held at the start; the table knows by now.
func (t *Table) Settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prior = nil
}

// SetState records what a device reports.
func (t *Table) SetState(device string, s wire.DeploymentState) Changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := t.devices[device]
	if rec == nil {
		t.orphans[Key{device, s.DeploymentRef}] = s
		return Changes{}
	}
	rec.states[s.DeploymentRef] = s
	return Changes{Deployments: []wire.DeploymentRef{s.DeploymentRef}}
}

// RemoveState forgets a report.
func (t *Table) RemoveState(k Key) Changes {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.orphans, k)
	if rec := t.devices[k.Device]; rec != nil {
		delete(rec.states, k.DeploymentRef)
	}
	return Changes{Deployments: []wire.DeploymentRef{k.DeploymentRef}}
}

func (t *Table) claimOrphans(device string, rec *deviceRecord) {
	for k, s := range t.orphans {
		if k.Device == device {
			rec.states[k.DeploymentRef] = s
			delete(t.orphans, k)
		}
	}
}

// Failure is the newest failure among the devices of a Deployment.
type Failure struct {
	Device string
	wire.DeploymentState
}

// Counts are the numbers of a Deployment's aggregate.
type Counts struct {
	Matched, Succeeded, Failed, Pending, Offline int
	// Outdated is how many of those that are pending have an agent that lacks what
	// the Deployment needs.
	Outdated int
	Newest   *Failure
	// Generation is that of the Deployment which these are the counts of.
	Generation int64
}

// Aggregate counts the devices of a Deployment. It returns false for a
// Deployment that the table does not have.
func (t *Table) Aggregate(ref wire.DeploymentRef) (c Counts, accepted, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	rec := t.deployments[ref]
	if rec == nil {
		return Counts{}, false, false
	}
	c.Generation = rec.Generation
	for name := range rec.devices {
		c.count(t.devices[name], ref)
	}
	return c, rec.Accepted, true
}

// count adds one device. A report counts only if it is about what was issued.
func (c *Counts) count(dev *deviceRecord, ref wire.DeploymentRef) {
	target := dev.targets[ref]
	if target.reserved {
		return
	}
	c.Matched++
	if dev.Offline {
		c.Offline++
	}
	if target.outdated {
		c.Outdated++
	}
	state, reported := dev.states[ref]
	current := reported && !target.hold && state.Hash == target.issued.Hash && state.SecretsDigest == target.issued.SecretsDigest
	switch {
	case current && state.Phase == wire.PhaseRunning:
		c.Succeeded++
	case current && state.Phase == wire.PhaseFailed:
		c.Failed++
		if c.Newest == nil || newer(dev.Name, state, c.Newest) {
			c.Newest = &Failure{dev.Name, state}
		}
	default:
		c.Pending++
	}
}

// newer breaks ties by name, so that the choice does not flutter.
func newer(device string, s wire.DeploymentState, than *Failure) bool {
	if !s.LastEventAt.Equal(than.LastEventAt) {
		return s.LastEventAt.After(than.LastEventAt)
	}
	return device < than.Device
}

// String names a key for logs.
func (k Key) String() string { return fmt.Sprintf("%s.%s.%s", k.Device, k.Namespace, k.Name) }
