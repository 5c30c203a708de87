package assignment

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/score/template"
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
	// Values are what scores may use besides name and labels: annotations and inventory. It
	// may be nil, and always answers the same.
	Values template.Values
}

// Value implements template.Values.
func (d Device) Value(s template.Source) (value string, has bool) {
	switch {
	case s.Kind == template.Name:
		return d.Name, true
	case s.Kind == template.Labels:
		value, has = d.Labels[s.Key]
		return value, has
	case d.Values != nil:
		return d.Values(s)
	}
	return "", false
}

// Refusal is why a score is not accepted: a reason as conditions have it, and the same in words
// for people.
type Refusal struct{ Reason, Message string }

// Deployment is what matching needs to know of a Deployment.
type Deployment struct {
	wire.DeploymentRef
	// Generation is that of the object whose facts these are.
	Generation int64
	Selector   Selector
	// Unreadable: nobody knows what it selects now, and it is not accepted. It goes on
	// selecting what it did, or every device where that is not known: they are asked to keep
	// what they run.
	Unreadable bool
	// Accepted: Entry and Body may be sent. Otherwise matched devices are asked
	// to keep what they run.
	Accepted bool
	// Refusal is why it is not accepted; none when it is.
	Refusal Refusal
	// Deleting: the Deployment matches nothing any more.
	Deleting bool
	Entry    wire.Entry
	Body     []byte
	// Secrets are the names of the Secrets that the score needs, and wire.ConfigMapNames.
	Secrets []string
	// Needs is what an agent must be able to do. Others are asked to keep what they
	// run.
	Needs []wire.Capability
	// Template is nil for a score that is the same on each device. Otherwise Entry and Body
	// are those of the template, which no device gets.
	Template Template
	// At is when these facts were learned: problems with the template are of then.
	At time.Time
}

// Key names a key of bucket desired-state.
type Key struct {
	Device string
	wire.DeploymentRef
}

// String names a key for logs.
func (k Key) String() string { return fmt.Sprintf("%s.%s.%s", k.Device, k.Namespace, k.Name) }

// Changes is what a change of the table asks to be carried out. None of its lists
// names anything twice, except after a change that panicked.
type Changes struct {
	// Keys of the bucket whose value changed or went.
	Keys []Key
	// Devices whose manifest changed.
	Devices []string
	// Deployments whose status may have changed.
	Deployments []wire.DeploymentRef
	// Lacks are the devices whose Lacks or Problems may have changed.
	Lacks []string
}

// grow makes room for that many targets.
func (c *Changes) grow(n int) {
	c.Keys, c.Devices = slices.Grow(c.Keys, n), slices.Grow(c.Devices, n)
}

// Table holds what should run where, and what devices report. Its methods may
// be called from several goroutines.
type Table struct {
	mu sync.RWMutex // guards everything below
	// seq is the highest that any device has. One for all, because a device that
	// is deleted and enrolls again must not see its numbers begin anew.
	seq uint64
	// changes counts the changes, so that each looks at a Deployment once.
	changes     uint64
	devices     map[string]*device
	deployments map[wire.DeploymentRef]*deployment
	// numberedDevices and numberedDeployments are the same, by number.
	numberedDevices     roll[device]
	numberedDeployments roll[deployment]
	labels              labelIndex
	// templates is how many Deployments have one; due are those that wait for renderings.
	templates int
	due       []*deployment
	traits    map[string]*traits
	entries   pool[wire.Entry]
	reports   pool[report]
	// prior is what the bucket held at the start.
	prior map[Key]wire.Entry
	// untold is what a change had asked for when it panicked, and half has what it was of: the
	// name of a device or the reference of a Deployment.
	untold Changes
	half   map[any]bool
}

// NewTable returns an empty table. prior is the content of bucket
// desired-state: it tells which Deployments an unschedulable device already has.
func NewTable(prior map[Key]wire.Entry) *Table {
	return &Table{
		devices: map[string]*device{}, deployments: map[wire.DeploymentRef]*deployment{},
		labels: labelIndex{keys: map[string]*labelKey{}}, traits: map[string]*traits{},
		entries: newPool[wire.Entry](), reports: newPool[report](), prior: prior, half: map[any]bool{},
	}
}

// Settle forgets what the bucket held at the start; the table knows by now.
func (t *Table) Settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.prior = nil
}

// change makes a change of a device, a Deployment, or a report (nil) with the table locked.
// Whoever survives its panic makes it again, when a part of it is made already. So the next
// change asks for what that part asked for, and half says that the record may be ahead of its
// targets.
func (t *Table) change(of any, f func(half bool, c *Changes)) (c Changes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changes++
	c, t.untold = t.untold, Changes{}
	panics := true
	defer func() {
		if panics {
			t.untold, t.half[of] = c, true
		}
	}()
	f(t.half[of], &c)
	panics = false
	delete(t.half, of)
	return c
}

// SetDevice adds or updates a device.
func (t *Table) SetDevice(d Device) Changes {
	return t.change(d.Name, func(half bool, c *Changes) { t.setDevice(d, half, c) })
}

func (t *Table) setDevice(d Device, half bool, c *Changes) {
	dev := t.deviceNamed(d.Name)
	if !dev.known {
		t.seq++
		dev.seq = t.seq
	}
	labels := t.labels.compare(dev.labels, d.Labels)
	t.setOffline(dev, d.Offline, c)
	used := t.usedBefore(dev)
	previous := *dev
	dev.values = d.Values
	dev.known, dev.unschedulable, dev.revoked = true, d.Unschedulable, d.Revoked
	t.setTraits(dev, &traits{namespaces: d.AllowedNamespaces, can: d.Capabilities})
	t.labels.change(dev, labels)
	match := func(dep *deployment) { t.matchOnce(dev, dep, c) }
	switch {
	case half, opened(&previous, dev):
		t.eachTarget(dev, match)
		t.labels.candidates(dev.labels, match)
	case previous.traits != dev.traits, previous.unschedulable != dev.unschedulable:
		t.eachTarget(dev, match)
		labels.mentioning(match)
	default:
		labels.mentioning(match)
	}
	usedOther(dev, used, match)
}

// opened reports whether Deployments that mention no changed label may match the
// device now, or no longer.
func opened(previous, now *device) bool {
	return !previous.known || previous.revoked != now.revoked || !sameNamespaces(previous.traits, now.traits)
}

func sameNamespaces(a, b *traits) bool {
	return a == b || (a.namespaces == nil) == (b.namespaces == nil) && slices.Equal(a.namespaces, b.namespaces)
}

// deviceNamed returns the record of a device, a new one if there is none.
func (t *Table) deviceNamed(name string) *device {
	dev := t.devices[name]
	if dev == nil {
		dev = &device{name: name}
		dev.number = t.numberedDevices.add(dev)
		t.devices[name] = dev
	}
	return dev
}

// setTraits lets the device share its traits with those that have the same.
func (t *Table) setTraits(dev *device, x *traits) {
	key := x.key()
	if shared := t.traits[key]; shared != nil {
		x = shared
	} else {
		t.traits[key] = x
	}
	if dev.traits == x {
		return
	}
	x.devices++
	t.releaseTraits(dev)
	dev.traits = x
}

func (t *Table) releaseTraits(dev *device) {
	if dev.traits == nil {
		return
	}
	if dev.traits.devices--; dev.traits.devices == 0 {
		delete(t.traits, dev.traits.key())
	}
}

func (t *Table) setOffline(dev *device, offline bool, c *Changes) {
	if dev.offline == offline {
		return
	}
	dev.offline = offline
	by := -1
	if offline {
		by = 1
	}
	for _, x := range dev.targets {
		if x.is(wanted) && !x.is(reserved) {
			dep := t.numberedDeployments.at(x.number())
			dep.counts.Offline += by
			if offline { // it tells again when it went on
				dep.setProgress(dev.name, "")
			}
			t.tell(dep, c)
		}
	}
}

// tell says that the status of a Deployment may have changed.
func (t *Table) tell(dep *deployment, c *Changes) {
	if dep.told != t.changes {
		dep.told = t.changes
		c.Deployments = append(c.Deployments, dep.DeploymentRef)
	}
}

// RemoveDevice removes a device that was deleted.
func (t *Table) RemoveDevice(name string) Changes {
	return t.change(name, func(_ bool, c *Changes) { t.removeDevice(name, c) })
}

func (t *Table) removeDevice(name string, c *Changes) {
	dev := t.devices[name]
	if dev == nil || !dev.known {
		return
	}
	for len(dev.targets) > 0 {
		x := dev.targets[0]
		dev.targets = dev.targets[1:] // each once, also if one of them panics
		dep := t.numberedDeployments.at(x.number())
		if x.issued != 0 {
			c.Keys = append(c.Keys, Key{name, dep.DeploymentRef})
		}
		if x.is(wanted) {
			t.tell(dep, c)
			dep.devices.remove(dev.number)
			t.count(dep, dev, x, -1)
		}
		t.releaseTarget(dev, dep, x)
	}
	t.labels.change(dev, labelChange{lost: slices.Clone(dev.labels)})
	t.releaseTraits(dev)
	t.forgetDevice(dev)
}

// releaseTarget lets go of what a target that is removed from its device names.
func (t *Table) releaseTarget(dev *device, dep *deployment, x target) {
	t.entries.release(x.issued)
	t.reports.release(x.report)
	dep.failures.forget(dev.number)
	dep.setProblem(dev, "")
	dep.setProgress(dev.name, "")
	dep.targets--
	t.forgetDeployment(dep)
}

func (t *Table) forgetDevice(dev *device) {
	delete(t.devices, dev.name)
	t.numberedDevices.remove(dev.number)
}

// SetDeployment adds or updates a Deployment.
func (t *Table) SetDeployment(d Deployment) Changes {
	return t.change(d.DeploymentRef, func(half bool, c *Changes) { t.setDeployment(d, half, c) })
}

func (t *Table) setDeployment(d Deployment, half bool, c *Changes) {
	dep := t.deploymentNamed(d.DeploymentRef)
	t.tell(dep, c)
	switch {
	case d.Unreadable && dep.known:
		d.Selector = dep.selection.Selector
	case d.Unreadable:
		d.Selector = Selector{}
	}
	reselected := half || !dep.known || dep.deleting != d.Deleting || !dep.selection.equal(d.Selector)
	entry := t.entries.number(d.Entry)
	reissued := reselected || dep.entry != entry || !dep.template.is(d.Template) || dep.accepted != d.Accepted || !slices.Equal(dep.needs, d.Needs)
	if dep.entry != entry {
		t.forgetRenderings(dep.template)
	}
	t.entries.release(dep.entry)
	t.setTemplate(dep, d.Template)
	dep.at = d.At
	dep.known, dep.deleting, dep.accepted, dep.entry = true, d.Deleting, d.Accepted, entry
	dep.refusal = d.Refusal
	dep.generation, dep.body, dep.secrets, dep.needs = d.Generation, d.Body, d.Secrets, d.Needs
	if reselected {
		t.reselect(dep, d.Selector)
	}
	if reissued {
		t.matchDevices(dep, c)
	}
	if reselected && !d.Deleting {
		t.findDevices(dep, c)
	}
}

func (t *Table) deploymentNamed(ref wire.DeploymentRef) *deployment {
	dep := t.deployments[ref]
	if dep == nil {
		dep = &deployment{DeploymentRef: ref, selection: selection{Selector: Selector{Nothing: true}, anchor: -1}}
		dep.number = t.numberedDeployments.add(dep)
		t.deployments[ref] = dep
	}
	return dep
}

// reselect makes the index know the Deployment by another selector.
func (t *Table) reselect(dep *deployment, s Selector) {
	previous := dep.selection
	t.labels.unmention(dep)
	dep.selection = newSelection(s, &t.labels)
	t.labels.mention(dep)
	t.labels.forgetMentioned(previous)
}

// matchDevices brings the targets of a Deployment up to date.
func (t *Table) matchDevices(dep *deployment, c *Changes) {
	devices := dep.devices.members()
	c.grow(len(devices))
	for _, number := range devices {
		t.match(t.numberedDevices.at(number), dep, c)
	}
}

// findDevices adds the targets that a Deployment does not have yet.
func (t *Table) findDevices(dep *deployment, c *Changes) {
	find := func(number uint32) {
		if dev := t.numberedDevices.at(number); dev != nil && !dep.devices.has(number) {
			t.match(dev, dep, c)
		}
	}
	if !dep.selection.everywhere() {
		c.grow(dep.selection.candidates())
		dep.selection.eachCandidate(find)
		return
	}
	for number := range t.numberedDevices.records {
		find(uint32(number))
	}
}

// RemoveDeployment removes a Deployment that was deleted.
func (t *Table) RemoveDeployment(ref wire.DeploymentRef) Changes {
	return t.change(ref, func(half bool, c *Changes) { t.removeDeployment(ref, half, c) })
}

func (t *Table) removeDeployment(ref wire.DeploymentRef, half bool, c *Changes) {
	dep := t.deployments[ref]
	if dep == nil || !dep.known && !half {
		return
	}
	t.tell(dep, c)
	dep.known = false
	t.matchDevices(dep, c)
	t.reselect(dep, Selector{Nothing: true})
	t.entries.release(dep.entry)
	t.setTemplate(dep, nil)
	dep.entry, dep.body, dep.secrets, dep.needs = 0, nil, nil, nil
	t.forgetDeployment(dep)
}

// forgetDeployment drops a Deployment that neither the API nor a report names.
func (t *Table) forgetDeployment(dep *deployment) {
	if !dep.known && dep.targets == 0 {
		delete(t.deployments, dep.DeploymentRef)
		t.numberedDeployments.remove(dep.number)
	}
}

// eachTarget calls f, which may change them, with the Deployments of a device's
// targets.
func (t *Table) eachTarget(dev *device, f func(*deployment)) {
	for _, x := range slices.Clone(dev.targets) {
		f(t.numberedDeployments.at(x.number()))
	}
}

// matchOnce is match for a Deployment that may be met again in the same change.
func (t *Table) matchOnce(dev *device, dep *deployment, c *Changes) {
	if dep.seen != t.changes {
		dep.seen = t.changes
		t.match(dev, dep, c)
	}
}

// match brings the target of one Deployment on one device up to date.
func (t *Table) match(dev *device, dep *deployment, c *Changes) {
	old := dev.target(dep.number)
	had := old.is(wanted)
	if !had {
		old.issued = t.priorEntry(dev, dep)
	}
	now, problem := t.decide(dev, dep, old)
	if old.is(outdated) || now.is(outdated) || problem != dep.problems.text(dev.number) { // what is missing may be something else by now
		c.Lacks = appendOnce(c.Lacks, dev.name)
	}
	switch {
	case !had && !now.is(wanted):
		t.entries.release(old.issued)
	case now != old || problem != dep.problems.text(dev.number):
		t.entries.hold(now.issued)
		t.count(dep, dev, old, -1)
		dep.setProblem(dev, problem)
		t.store(dev, dep, old, now)
		t.count(dep, dev, now, 1)
		t.note(dev, dep, old, now, c)
		t.entries.release(old.issued)
	}
}

// priorEntry holds what the bucket held at the start.
func (t *Table) priorEntry(dev *device, dep *deployment) uint32 {
	if t.prior == nil {
		return 0
	}
	return t.entries.number(t.prior[Key{dev.name, dep.DeploymentRef}])
}

// decide is the rule of matching. The problem is why a target is refused.
func (t *Table) decide(dev *device, dep *deployment, old target) (now target, problem string) {
	now = newTarget(dep.number)
	now.report = old.report
	if !dep.known || dep.deleting || !dev.known || dev.revoked || !dev.allows(dep.Namespace) || !dep.selection.matches(dev.labels) {
		return now, ""
	}
	switch {
	case dev.unschedulable && old.issued == 0:
		now.set(wanted | hold | reserved)
	case !dep.accepted:
		now.set(wanted | hold)
		now.issued = old.issued
	case len(wire.Missing(dev.traits.can, dep.needs)) > 0:
		now.set(wanted | hold | outdated)
		now.issued = old.issued
	case dep.template != nil:
		return t.decideRendered(dev, dep, old, now)
	default:
		now.set(wanted)
		now.issued = dep.entry
	}
	return now, problem
}

// decideRendered is decide for what has a template.
func (t *Table) decideRendered(dev *device, dep *deployment, old, now target) (target, string) {
	r, known := t.rendered(dev, dep)
	now.issued = old.issued
	switch {
	case !known && t.standsFor(old.issued, dep):
		now.set(wanted | unrendered)
	case !known && old.is(wanted) && !old.is(hold):
		now.set(wanted | unrendered | former) // the manifest stays as it is
	case !known:
		now.set(wanted | hold | unrendered)
	case r.problem != "":
		now.set(wanted | hold | refused)
	default:
		now.set(wanted)
		now.issued = r.entry
	}
	return now, r.problem
}

// standsFor reports whether an entry is a rendering of what a Deployment has now, if only with
// earlier values: after a start of the server most are still the same.
func (t *Table) standsFor(issued uint32, dep *deployment) bool {
	e, tmpl := *t.entries.value(issued), *t.entries.value(dep.entry)
	e.Hash, e.Size, e.Revision = e.Revision, tmpl.Size, ""
	return e == tmpl
}

// store replaces a target.
func (t *Table) store(dev *device, dep *deployment, old, now target) {
	dev.put(now)
	switch {
	case now.is(wanted) == old.is(wanted):
	case now.is(wanted):
		dep.devices.add(dev.number)
	default:
		dep.devices.remove(dev.number)
		dep.setProgress(dev.name, "")
	}
	if !old.empty() {
		dep.targets--
	}
	if !now.empty() {
		dep.targets++
	}
}

// note says what a target that was replaced asks to be carried out.
func (t *Table) note(dev *device, dep *deployment, old, now target, c *Changes) {
	if old.issued != now.issued {
		c.Keys = append(c.Keys, Key{dev.name, dep.DeploymentRef})
	}
	t.tell(dep, c)
	if now.entry() == old.entry() {
		return
	}
	t.seq++
	dev.seq = t.seq
	c.Devices = appendOnce(c.Devices, dev.name)
}

// appendOnce appends a name that is not the last.
func appendOnce(names []string, name string) []string {
	if last := len(names) - 1; last >= 0 && names[last] == name {
		return names
	}
	return append(names, name)
}

// SetState records what a device reports.
func (t *Table) SetState(name string, s wire.DeploymentState) Changes {
	return t.change(nil, func(_ bool, c *Changes) { t.setReport(t.deviceNamed(name), t.deploymentNamed(s.DeploymentRef), &s, c) })
}

// RemoveState forgets a report.
func (t *Table) RemoveState(k Key) Changes {
	return t.change(nil, func(_ bool, c *Changes) {
		if dev, dep := t.devices[k.Device], t.deployments[k.DeploymentRef]; dev != nil && dep != nil {
			t.setReport(dev, dep, nil, c)
		}
	})
}

// setReport replaces the report about a target; nil is none.
func (t *Table) setReport(dev *device, dep *deployment, s *wire.DeploymentState, c *Changes) {
	old := dev.target(dep.number)
	now := old
	now.report = 0
	if s != nil {
		now.report = t.reports.number(report{s.Phase, s.Hash, s.SecretsDigest})
	}
	before := t.phase(old)
	t.count(dep, dev, old, -1)
	dep.failures.forget(dev.number)
	if s != nil && s.Phase == wire.PhaseFailed {
		dep.failures.report(dev.number, Failure{dev.name, s.Error, s.LastEventAt})
	}
	t.store(dev, dep, old, now)
	t.count(dep, dev, now, 1)
	t.reports.release(old.report)
	if dep.setProgress(dev.name, progressOf(now, s)) {
		t.tell(dep, c)
	}
	if after := t.phase(now); now.is(wanted) && (after != before || after == wire.PhaseFailed) {
		t.tell(dep, c)
	}
	if !dev.known && len(dev.targets) == 0 {
		t.forgetDevice(dev)
	}
	t.forgetDeployment(dep)
}
