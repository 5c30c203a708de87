package assignment_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// The world of the state machine is small, so that things meet.
var (
	deviceNames = []string{"edge-1", "edge-2", "edge-3"}
	namespaces  = []string{"shop", "yard"}
	refs        = []wire.DeploymentRef{
		{Namespace: "shop", Name: "web"}, {Namespace: "shop", Name: "api"}, {Namespace: "yard", Name: "web"},
	}
	groups = []string{"", "a", "b"}
	keys   = []string{"group", "ring"}
)

// entryOf is what a Deployment sends in its nth version.
func entryOf(ref wire.DeploymentRef, version int) (wire.Entry, []byte) {
	body := []byte(fmt.Sprintf("%s in version %d", ref, version))
	return wire.Entry{DeploymentRef: ref, Type: "PodmanV0", Hash: wire.Sum(body).String(), Size: len(body)}, body
}

// inGroup selects the devices of a group.
func inGroup(group string) assignment.Selector {
	return assignment.Selector{Requirements: []assignment.Requirement{{Key: "group", Operator: assignment.In, Values: []string{group}}}}
}

var everything = assignment.Selector{}

// drawSelector draws every kind of selector: with positive requirements, with
// negative ones only, with requirements that contradict each other, with none.
func drawSelector(t *rapid.T) (s assignment.Selector) {
	s.Nothing = rapid.IntRange(0, 9).Draw(t, "nothing") == 0
	for range rapid.IntRange(0, 3).Draw(t, "requirements") {
		r := assignment.Requirement{
			Key:      rapid.SampledFrom(keys).Draw(t, "key"),
			Operator: rapid.SampledFrom([]assignment.Operator{assignment.In, assignment.NotIn, assignment.Exists, assignment.DoesNotExist}).Draw(t, "operator"),
		}
		if r.Operator == assignment.In || r.Operator == assignment.NotIn {
			r.Values = rapid.SliceOfN(rapid.SampledFrom(groups), 1, 3).Draw(t, "values")
			if rapid.IntRange(0, 3).Draw(t, "many values") == 0 {
				r.Values = append(r.Values, strings.Split("0123456789", "")...)
			}
		}
		s.Requirements = append(s.Requirements, r)
	}
	return s
}

// selects is the meaning of a selector, without an index.
func selects(s assignment.Selector, labels map[string]string) bool {
	met := !s.Nothing
	for _, r := range s.Requirements {
		value, has := labels[r.Key]
		is := has && slices.Contains(r.Values, value)
		switch r.Operator {
		case assignment.In:
			met = met && is
		case assignment.NotIn:
			met = met && !is
		case assignment.Exists:
			met = met && has
		case assignment.DoesNotExist:
			met = met && !has
		}
	}
	return met
}

func TestSelectorWithoutAnIndex(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, labels := drawSelector(t), drawLabels(t)
		if got, want := s.Matches(labels), selects(s, labels); got != want {
			t.Fatalf("%+v matches %v: %v, want %v", s, labels, got, want)
		}
	})
}

func drawLabels(t *rapid.T) map[string]string {
	labels := map[string]string{}
	for _, key := range keys {
		if rapid.IntRange(0, 3).Draw(t, "has "+key) != 0 {
			labels[key] = rapid.SampledFrom(groups).Draw(t, key)
		}
	}
	return labels
}

func drawKey(t *rapid.T) assignment.Key {
	return assignment.Key{Device: rapid.SampledFrom(deviceNames).Draw(t, "device"), DeploymentRef: rapid.SampledFrom(refs).Draw(t, "ref")}
}

// drawBucket draws what a bucket may hold: current, outdated and unreadable entries.
func drawBucket(t *rapid.T) map[assignment.Key]wire.Entry {
	bucket := map[assignment.Key]wire.Entry{}
	for range rapid.IntRange(0, 6).Draw(t, "keys") {
		k := drawKey(t)
		bucket[k], _ = entryOf(k.DeploymentRef, rapid.IntRange(0, 2).Draw(t, "version"))
		if rapid.IntRange(0, 9).Draw(t, "unreadable") == 0 {
			bucket[k] = wire.Entry{}
		}
	}
	return bucket
}

// pair is one Deployment on one device, as the model sees it.
type pair struct {
	issued   wire.Entry
	hold     bool
	reserved bool
	// missing is what the agent lacks for it.
	missing []wire.Capability
	// problem is why it cannot be rendered.
	problem string
	// waits: it is not rendered yet. former: what was issued is of something else.
	waits, former bool
}

// machine drives a table and recomputes everything from its inputs.
type machine struct {
	table *assignment.Table

	devices     map[string]assignment.Device
	deployments map[wire.DeploymentRef]assignment.Deployment
	states      map[assignment.Key]wire.DeploymentState
	prior       map[assignment.Key]wire.Entry // nil once settled
	pairs       map[assignment.Key]pair       // what is matched now
	bucket      map[assignment.Key]wire.Entry // written as the changes ask for; from Settle on

	settled bool
	// seqs is the last sequence number seen of each device, alive or not.
	seqs map[string]uint64
	// contents is the manifest that goes with it.
	contents map[string][]wire.Entry
}

func newMachine(t *rapid.T) *machine {
	prior := drawBucket(t)
	return &machine{
		table: assignment.NewTable(maps.Clone(prior)), devices: map[string]assignment.Device{}, deployments: map[wire.DeploymentRef]assignment.Deployment{},
		states: map[assignment.Key]wire.DeploymentState{}, prior: prior, pairs: map[assignment.Key]pair{}, bucket: maps.Clone(prior),
		seqs: map[string]uint64{}, contents: map[string][]wire.Entry{},
	}
}

// reason says why a Deployment that exists does not belong on a device that
// exists, or "". These are the only reasons for which an entry may disappear.
func reason(dev assignment.Device, dep assignment.Deployment) string {
	switch {
	case dep.Deleting:
		return "deletion"
	case dev.Revoked:
		return "revocation"
	case dev.AllowedNamespaces != nil && !slices.Contains(dev.AllowedNamespaces, dep.Namespace):
		return "tenancy"
	case !selects(dep.Selector, dev.Labels):
		return "selector"
	}
	return ""
}

// recompute derives every pair from the inputs and from what was issued before.
func (m *machine) recompute() {
	now := map[assignment.Key]pair{}
	for name, dev := range m.devices {
		for ref, dep := range m.deployments {
			if reason(dev, dep) != "" {
				continue
			}
			k := assignment.Key{Device: name, DeploymentRef: ref}
			before, had := m.pairs[k]
			if !had {
				before.issued = m.prior[k]
			}
			runs := before.issued != wire.Entry{}
			switch {
			case dev.Unschedulable && !runs:
				now[k] = pair{hold: true, reserved: true}
			case !dep.Accepted:
				now[k] = pair{issued: before.issued, hold: true}
			case len(lacks(dev, dep)) > 0:
				now[k] = pair{issued: before.issued, hold: true, missing: lacks(dev, dep)}
			case dep.Template != nil && m.table.Waits(k): // when, is the table's own affair
				now[k] = awaited(dep, before, had)
			case dep.Template != nil:
				now[k] = rendered(dev, dep, before)
			default:
				now[k] = pair{issued: dep.Entry}
			}
		}
	}
	m.pairs = now
}

// lacks returns what an agent lacks for a Deployment. One that does not say what it
// can do is sent every score type.
func lacks(dev assignment.Device, dep assignment.Deployment) (missing []wire.Capability) {
	for _, c := range dep.Needs {
		has := slices.Contains(dev.Capabilities, c) || dev.Capabilities == nil && c == scoreX
		if !has {
			missing = append(missing, c)
		}
	}
	return missing
}

const scoreX, other wire.Capability = "score/X", "other/1"

// drawCapabilities draws some of two.
func drawCapabilities(t *rapid.T) (some []wire.Capability) {
	for _, c := range []wire.Capability{scoreX, other} {
		if rapid.IntRange(0, 3).Draw(t, string(c)) != 0 {
			some = append(some, c)
		}
	}
	return some
}

// outdated is what the model says of every device.
func (m *machine) outdated() map[string][]assignment.Lack {
	lacking := map[string][]assignment.Lack{}
	for k, p := range m.pairs {
		if len(p.missing) > 0 {
			lacking[k.Device] = append(lacking[k.Device], assignment.Lack{DeploymentRef: k.DeploymentRef, Missing: p.missing})
		}
	}
	for _, l := range lacking {
		slices.SortFunc(l, func(a, b assignment.Lack) int { return a.Compare(b.DeploymentRef) })
	}
	return lacking
}

func (m *machine) manifest(device string) []wire.Entry {
	entries := []wire.Entry{}
	for _, ref := range refs {
		p, ok := m.pairs[assignment.Key{Device: device, DeploymentRef: ref}]
		switch {
		case ok && p.hold:
			entries = append(entries, wire.Entry{DeploymentRef: ref, Hold: true})
		case ok:
			entries = append(entries, p.issued)
		}
	}
	slices.SortFunc(entries, func(a, b wire.Entry) int { return a.Compare(b.DeploymentRef) })
	return entries
}

func (m *machine) issued() map[assignment.Key]wire.Entry {
	issued := map[assignment.Key]wire.Entry{}
	for k, p := range m.pairs {
		if (p.issued != wire.Entry{}) {
			issued[k] = p.issued
		}
	}
	return issued
}

func (m *machine) counts(ref wire.DeploymentRef) assignment.Counts {
	var c assignment.Counts
	for _, name := range deviceNames {
		k := assignment.Key{Device: name, DeploymentRef: ref}
		p, ok := m.pairs[k]
		if !ok || p.reserved {
			continue
		}
		c.Matched++
		if m.devices[name].Offline {
			c.Offline++
		}
		if len(p.missing) > 0 {
			c.Outdated++
		}
		s, reported := m.states[k]
		if p.problem != "" { // whatever the device reports
			s = wire.DeploymentState{Error: p.problem, LastEventAt: m.deployments[ref].At, Phase: wire.PhaseFailed, Hash: p.issued.Hash}
			reported, p.hold = true, false
		}
		switch {
		case p.former:
			c.Pending++
		case reported && !p.hold && s.Hash == p.issued.Hash && s.Phase == wire.PhaseRunning:
			c.Succeeded++
		case reported && !p.hold && s.Hash == p.issued.Hash && s.Phase == wire.PhaseFailed:
			c.Failed++
			// Names come in order, so an equal time leaves the first.
			if c.Newest == nil || s.LastEventAt.After(c.Newest.LastEventAt) {
				c.Newest = &assignment.Failure{Device: name, Error: s.Error, LastEventAt: s.LastEventAt}
			}
		default:
			c.Pending++
		}
	}
	return c
}

// step carries a change out and checks what it asks to be carried out.
func (m *machine) step(t *rapid.T, change func() assignment.Changes, inputs func()) {
	manifests, aggregates := map[string][]wire.Entry{}, map[wire.DeploymentRef]assignment.Counts{}
	for name := range m.devices {
		manifests[name] = m.manifest(name)
	}
	for ref := range m.deployments {
		aggregates[ref] = m.counts(ref)
	}
	held, lacked, wrong := maps.Clone(m.pairs), m.outdated(), m.problems()
	c := change()
	inputs()
	m.recompute()
	for what, twice := range map[string]bool{
		"keys": repeats(c.Keys), "devices": repeats(c.Devices), "Deployments": repeats(c.Deployments), "lacks": repeats(c.Lacks),
	} {
		if twice {
			t.Fatalf("the %s of %+v repeat", what, c)
		}
	}

	for name, before := range manifests {
		if _, alive := m.devices[name]; !alive {
			continue
		}
		if changed := !cmp.Equal(before, m.manifest(name)); changed != slices.Contains(c.Devices, name) {
			t.Fatalf("manifest of %s changed: %v, but the devices to nudge are %v", name, changed, c.Devices)
		}
	}
	lacking, now := m.outdated(), m.problems()
	for name := range m.devices {
		if !cmp.Equal(wrong[name], now[name]) && !slices.Contains(c.Lacks, name) {
			t.Fatalf("the problems of %s changed from %v to %v, but the devices to tell are %v", name, wrong[name], now[name], c.Lacks)
		}
		if !cmp.Equal(lacked[name], lacking[name]) && !slices.Contains(c.Lacks, name) {
			t.Fatalf("what %s lacks changed from %v to %v, but the devices to tell are %v", name, lacked[name], lacking[name], c.Lacks)
		}
	}
	for ref, before := range aggregates {
		if _, alive := m.deployments[ref]; alive && !cmp.Equal(before, m.counts(ref)) && !slices.Contains(c.Deployments, ref) {
			t.Fatalf("the aggregate of %s changed, but %v are to be written", ref, c.Deployments)
		}
	}
	m.checkLosses(t, held)
	if m.settled {
		m.write(c.Keys)
		if diff := cmp.Diff(m.issued(), m.bucket); diff != "" {
			t.Fatalf("the bucket does not follow the changes (-want +got):\n%s", diff)
		}
	}
}

func repeats[T comparable](list []T) bool {
	once := map[T]bool{}
	for _, x := range list {
		once[x] = true
	}
	return len(once) < len(list)
}

// checkLosses checks that nothing leaves a device without a reason, and that
// an unschedulable device keeps what it has.
func (m *machine) checkLosses(t *rapid.T, held map[assignment.Key]pair) {
	for k, before := range held {
		dev, ok := m.devices[k.Device]
		dep, exists := m.deployments[k.DeploymentRef]
		if !ok || !exists || reason(dev, dep) != "" {
			continue
		}
		entries, _, _ := m.table.Manifest(k.Device)
		if !slices.ContainsFunc(entries, func(e wire.Entry) bool { return e.DeploymentRef == k.DeploymentRef }) {
			t.Fatalf("%s left the manifest without a reason", k)
		}
		if _, ok := m.table.Issued(k); !ok && before.issued != (wire.Entry{}) {
			t.Fatalf("what was issued for %s is forgotten", k)
		}
	}
}

// write does what the projector does.
func (m *machine) write(keys []assignment.Key) {
	for _, k := range keys {
		if e, ok := m.table.Issued(k); ok {
			m.bucket[k] = e
		} else {
			delete(m.bucket, k)
		}
	}
}

func (m *machine) SetDevice(t *rapid.T) {
	m.setDevice(t, rapid.SampledFrom(deviceNames).Draw(t, "device"))
}

func (m *machine) setDevice(t *rapid.T, name string) {
	d := assignment.Device{
		Name:          name,
		Labels:        drawLabels(t),
		Unschedulable: rapid.Bool().Draw(t, "unschedulable"),
		Revoked:       rapid.IntRange(0, 5).Draw(t, "revoked") == 0,
		Offline:       rapid.Bool().Draw(t, "offline"),
		Values:        drawValues(t),
	}
	if rapid.IntRange(0, 2).Draw(t, "says") != 0 {
		d.Capabilities = append([]wire.Capability{}, drawCapabilities(t)...)
	}
	switch rapid.IntRange(0, 7).Draw(t, "tenancy") {
	case 0:
		d.AllowedNamespaces = []string{}
	case 1:
		d.AllowedNamespaces = []string{rapid.SampledFrom(namespaces).Draw(t, "namespace")}
	}
	m.giveDevice(t, d)
}

func (m *machine) giveDevice(t *rapid.T, d assignment.Device) {
	m.step(t, func() assignment.Changes { return m.table.SetDevice(d) }, func() { m.devices[d.Name] = d })
}

// ChangeDevice changes one thing about a device, as most changes do.
func (m *machine) ChangeDevice(t *rapid.T) {
	d, known := m.devices[rapid.SampledFrom(deviceNames).Draw(t, "device")]
	if !known {
		t.Skip("no such device")
	}
	switch rapid.IntRange(0, 8).Draw(t, "what") {
	case 0:
		d.Unschedulable = !d.Unschedulable
	case 1:
		d.Offline = !d.Offline
	case 2:
		d.Revoked = !d.Revoked
	case 3:
		d.Capabilities = drawCapabilities(t)
	case 4:
		d.AllowedNamespaces = nil
	case 5:
		d.Values = drawValues(t)
	default:
		d.Labels = drawLabels(t)
	}
	m.giveDevice(t, d)
}

// rarely skips an action most of the time: a world where everything vanishes
// at once shows little.
func rarely(t *rapid.T) {
	if rapid.IntRange(0, 3).Draw(t, "skip") != 0 {
		t.Skip("not now")
	}
}

func (m *machine) RemoveDevice(t *rapid.T) {
	rarely(t)
	name := rapid.SampledFrom(deviceNames).Draw(t, "device")
	_, known := m.devices[name]
	m.step(t, func() assignment.Changes { return m.table.RemoveDevice(name) }, func() {
		delete(m.devices, name)
		if known {
			maps.DeleteFunc(m.states, func(k assignment.Key, _ wire.DeploymentState) bool { return k.Device == name })
		}
		m.contents[name] = nil // it may come back as another device
	})
}

func (m *machine) SetDeployment(t *rapid.T) {
	m.setDeployment(t, rapid.SampledFrom(refs).Draw(t, "ref"))
}

func (m *machine) setDeployment(t *rapid.T, ref wire.DeploymentRef) {
	d := assignment.Deployment{
		DeploymentRef: ref, Selector: drawSelector(t),
		Accepted: rapid.IntRange(0, 3).Draw(t, "refused") != 0,
		Deleting: rapid.IntRange(0, 7).Draw(t, "deleting") == 0,
		Needs:    drawCapabilities(t),
	}
	if present, has := m.deployments[ref]; has && rapid.Bool().Draw(t, "same selector") {
		d.Selector = present.Selector
	}
	d.Entry, d.Body = entryOf(ref, rapid.IntRange(0, 2).Draw(t, "version"))
	d.Template, d.At = drawTemplate(t, d.Body), time.Unix(2, 0)
	if present, has := m.deployments[ref]; has && present.Template != nil && rapid.Bool().Draw(t, "same template") {
		d.Entry, d.Body, d.Template = present.Entry, present.Body, present.Template
	}
	m.step(t, func() assignment.Changes { return m.table.SetDeployment(d) }, func() { m.deployments[ref] = d })
}

func (m *machine) RemoveDeployment(t *rapid.T) {
	rarely(t)
	ref := rapid.SampledFrom(refs).Draw(t, "ref")
	_, known := m.deployments[ref]
	m.step(t, func() assignment.Changes {
		c := m.table.RemoveDeployment(ref)
		if known && !slices.Contains(c.Deployments, ref) {
			t.Fatalf("nobody is told that %s is gone", ref)
		}
		return c
	}, func() { delete(m.deployments, ref) })
}

func (m *machine) SetState(t *rapid.T) {
	k := drawKey(t)
	e, _ := entryOf(k.DeploymentRef, rapid.IntRange(0, 2).Draw(t, "version"))
	if issued := m.pairs[k].issued; issued != (wire.Entry{}) && rapid.IntRange(0, 3).Draw(t, "outdated") != 0 {
		e = issued // what devices mostly report about
	}
	s := wire.DeploymentState{
		DeploymentRef: k.DeploymentRef, Hash: e.Hash,
		Phase:       rapid.SampledFrom([]wire.Phase{wire.PhasePending, wire.PhaseRunning, wire.PhaseFailed}).Draw(t, "phase"),
		Error:       rapid.SampledFrom([]string{"no image", "no disk"}).Draw(t, "error"),
		LastEventAt: time.Unix(rapid.Int64Range(1, 3).Draw(t, "at"), 0),
	}
	m.step(t, func() assignment.Changes { return m.table.SetState(k.Device, s) }, func() { m.states[k] = s })
}

func (m *machine) RemoveState(t *rapid.T) {
	k := drawKey(t)
	m.step(t, func() assignment.Changes { return m.table.RemoveState(k) }, func() { delete(m.states, k) })
}

// Render renders what waits, or some of it.
func (m *machine) Render(t *rapid.T) {
	all := rapid.Bool().Draw(t, "all")
	for more := true; more; more = more && all {
		m.step(t, func() (c assignment.Changes) { c, more = m.table.Render(); return c }, func() {})
		m.Check(t)
	}
	for k, p := range m.pairs {
		if all && p.waits {
			t.Fatalf("%s waits, although all is rendered", k)
		}
	}
}

// Settle is the end of the start: the bucket is brought up to date.
func (m *machine) Settle(t *rapid.T) {
	if m.settled {
		t.Skip("settled already")
	}
	m.table.Settle()
	m.write(m.table.Diff(m.prior))
	m.settled, m.prior = true, nil
}

// Check compares the table with the model.
func (m *machine) Check(t *rapid.T) {
	outdated := m.outdated()
	for _, name := range deviceNames {
		m.checkProblems(t, name)
		m.checkManifest(t, name)
		m.checkWanted(t, name)
		if diff := cmp.Diff(outdated[name], m.table.Lacks(name)); diff != "" {
			t.Fatalf("what %s lacks (-want +got):\n%s", name, diff)
		}
	}
	failures := map[wire.DeploymentRef]int{}
	for k, s := range m.states {
		if s.Phase == wire.PhaseFailed {
			failures[k.DeploymentRef]++
		}
	}
	for _, ref := range refs {
		m.checkAggregate(t, ref)
		m.checkBodiesOf(t, ref)
		if got := m.table.Failures(ref); got != failures[ref] {
			t.Fatalf("%d failures of %s are kept, want %d", got, ref, failures[ref])
		}
	}
	m.checkEachCounts(t)
	want := m.issued()
	for _, name := range deviceNames {
		for _, ref := range refs {
			k := assignment.Key{Device: name, DeploymentRef: ref}
			if e, ok := m.table.Issued(k); ok != (want[k] != wire.Entry{}) || e != want[k] {
				t.Fatalf("issued for %s is %+v, want %+v", k, e, want[k])
			}
			m.checkBodies(t, k)
			m.checkRendered(t, k)
		}
	}
	held := drawBucket(t)
	keys := m.table.Diff(held)
	for _, k := range keys {
		if e, ok := want[k]; ok && held[k] == e {
			t.Fatalf("%s is to be written although it is right", k)
		}
	}
	m.bucket, held = held, m.bucket
	m.write(keys)
	m.bucket, held = held, m.bucket
	if diff := cmp.Diff(want, held); diff != "" {
		t.Fatalf("the difference does not lead there (-want +got):\n%s", diff)
	}
}

func (m *machine) checkManifest(t *rapid.T, name string) {
	entries, seq, ok := m.table.Manifest(name)
	dev, known := m.devices[name]
	if visible := known && !dev.Revoked; ok != visible {
		t.Fatalf("manifest of %s: %v, want %v", name, ok, visible)
	}
	if !ok {
		m.contents[name] = nil
		return
	}
	want := m.manifest(name)
	if diff := cmp.Diff(want, entries); diff != "" {
		t.Fatalf("manifest of %s (-want +got):\n%s", name, diff)
	}
	last, content := m.seqs[name], m.contents[name]
	switch {
	case seq < last || seq == 0:
		t.Fatalf("seq of %s fell from %d to %d", name, last, seq)
	case content != nil && cmp.Equal(content, want) != (seq == last):
		t.Fatalf("seq of %s went from %d to %d; the manifest before: %v, now: %v", name, last, seq, content, want)
	case content == nil && len(want) > 0 && seq == last:
		t.Fatalf("another device has the name %s, but its seq is still %d", name, seq)
	}
	m.seqs[name], m.contents[name] = seq, want
}

func (m *machine) checkEachCounts(t *rapid.T) {
	want, got := map[string]int{}, map[string]int{}
	for _, ref := range refs {
		if c, accepted, ok := m.table.Aggregate(ref); ok {
			c.Newest, c.Generation = nil, 0
			want[fmt.Sprint(c, accepted)]++
		}
	}
	m.table.EachCounts(func(c assignment.Counts, accepted bool) {
		c.Newest, c.Generation = nil, 0
		got[fmt.Sprint(c, accepted)]++
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("counts of each Deployment (-want +got):\n%s", diff)
	}
}

func (m *machine) checkAggregate(t *rapid.T, ref wire.DeploymentRef) {
	got, accepted, ok := m.table.Aggregate(ref)
	dep, known := m.deployments[ref]
	if ok != known || accepted != dep.Accepted {
		t.Fatalf("aggregate of %s: there %v, accepted %v, want %v, %v", ref, ok, accepted, known, dep.Accepted)
	}
	if !known {
		return
	}
	if diff := cmp.Diff(m.counts(ref), got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("aggregate of %s (-want +got):\n%s", ref, diff)
	}
	if got.Succeeded+got.Failed+got.Pending != got.Matched {
		t.Fatalf("aggregate of %s does not add up: %+v", ref, got)
	}
}

// checkBodies checks that a device gets the bodies that its manifest names and
// no others.
func (m *machine) checkBodies(t *rapid.T, k assignment.Key) {
	for version := range 3 {
		e, want := entryOf(k.DeploymentRef, version)
		p, matched := m.pairs[k]
		named := matched && !p.hold && p.issued == e
		body, ok := bodyOf(m.table, k.Device, e.Hash)
		if ok != named && !p.waits || ok && string(body) != string(want) {
			t.Fatalf("body %d of %s: %q, %v, but the manifest names it: %v", version, k, body, ok, named)
		}
	}
}

// checkRendered checks that a device gets what was rendered for it.
func (m *machine) checkRendered(t *rapid.T, k assignment.Key) {
	p, matched := m.pairs[k]
	if !matched || p.issued.Revision == "" {
		return
	}
	body, ok := bodyOf(m.table, k.Device, p.issued.Hash)
	if named := !p.hold && !m.devices[k.Device].Revoked; ok != named && !p.waits || ok && (wire.Sum(body).String() != p.issued.Hash || len(body) != p.issued.Size) {
		t.Fatalf("rendered body of %s: %q, %v, but the manifest names it: %v", k, body, ok, named)
	}
}

// checkBodiesOf checks that what devices run, or were told to run, is known to be
// needed.
func (m *machine) checkBodiesOf(t *rapid.T, ref wire.DeploymentRef) {
	want := map[string]bool{}
	for k, p := range m.pairs {
		if k.DeploymentRef == ref {
			want[p.issued.Hash], want[p.issued.Revision], want[m.states[k].Hash] = true, true, true
		}
	}
	delete(want, "")
	if diff := cmp.Diff(want, m.table.BodiesOf(ref)); diff != "" {
		t.Fatalf("bodies of %s that devices have (-want +got):\n%s", ref, diff)
	}
}

func (m *machine) checkWanted(t *rapid.T, name string) {
	var want []wire.DeploymentRef
	for k, p := range m.pairs {
		if k.Device == name && !p.reserved && !m.devices[name].Revoked {
			want = append(want, k.DeploymentRef)
		}
	}
	compare := cmpopts.SortSlices(func(a, b wire.DeploymentRef) bool { return a.Compare(b) < 0 })
	refs, _ := m.table.Wanted(name)
	if diff := cmp.Diff(want, refs, compare, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("what %s should run (-want +got):\n%s", name, diff)
	}
}

func TestTableFollowsItsInputs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		for _, name := range deviceNames {
			m.setDevice(t, name)
		}
		for _, ref := range refs {
			m.setDeployment(t, ref)
		}
		t.Repeat(rapid.StateMachineActions(m))
		m.empty(t)
	})
}

// empty takes everything away and checks that the table keeps nothing of it.
func (m *machine) empty(t *rapid.T) {
	for _, name := range deviceNames {
		m.table.RemoveDevice(name)
		for _, ref := range refs {
			m.table.RemoveState(assignment.Key{Device: name, DeploymentRef: ref})
		}
	}
	for _, ref := range refs {
		m.table.RemoveDeployment(ref)
	}
	if held := m.table.Held(); len(held) > 0 {
		t.Fatalf("an empty table holds %v", held)
	}
}

// A selector that differs in one thing alone selects others.
func TestSelectorsThatDifferInOneThing(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	entry, _ := entryOf(refs[0], 0)
	for _, name := range []string{"group", "site"} {
		table.SetDevice(assignment.Device{Name: name, Labels: map[string]string{name: "a"}})
	}
	for _, tt := range []struct {
		requirement assignment.Requirement
		want        []string
	}{
		{assignment.Requirement{Key: "group", Operator: assignment.In, Values: []string{"a"}}, []string{"group"}},
		{assignment.Requirement{Key: "site", Operator: assignment.In, Values: []string{"a"}}, []string{"site"}},
		{assignment.Requirement{Key: "site", Operator: assignment.NotIn, Values: []string{"a"}}, []string{"group"}},
		{assignment.Requirement{Key: "site", Operator: assignment.NotIn, Values: []string{"b"}}, []string{"group", "site"}},
		{assignment.Requirement{Key: "site", Operator: assignment.Exists}, []string{"site"}},
		{assignment.Requirement{Key: "site", Operator: assignment.DoesNotExist}, []string{"group"}},
		{assignment.Requirement{Key: "group", Operator: assignment.DoesNotExist}, []string{"site"}},
	} {
		table.SetDeployment(assignment.Deployment{
			DeploymentRef: refs[0], Selector: assignment.Selector{Requirements: []assignment.Requirement{tt.requirement}}, Accepted: true, Entry: entry,
		})
		var got []string
		for _, name := range []string{"group", "site"} {
			if refs, _ := table.Wanted(name); len(refs) > 0 {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v selects %v, want %v", tt.requirement, got, tt.want)
		}
	}
}

func TestUnschedulableDeviceKeepsWhatTheBucketSaysItHas(t *testing.T) {
	t.Parallel()
	old, _ := entryOf(refs[0], 0)
	current, _ := entryOf(refs[0], 1)
	for name, tc := range map[string]struct {
		prior map[assignment.Key]wire.Entry
		want  wire.Entry
	}{
		"the bucket names it": {map[assignment.Key]wire.Entry{{Device: "edge-1", DeploymentRef: refs[0]}: old}, current},
		// It may run it all the same: the bucket may have been lost.
		"the bucket does not name it": {nil, wire.Entry{DeploymentRef: refs[0], Hold: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := assignment.NewTable(tc.prior)
			table.SetDevice(assignment.Device{Name: "edge-1", Unschedulable: true})
			table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: current})
			got, _, _ := table.Manifest("edge-1")
			if diff := cmp.Diff([]wire.Entry{tc.want}, got); diff != "" {
				t.Errorf("manifest (-want +got):\n%s", diff)
			}
		})
	}
}

// A selector that nobody can read takes the Deployment off no device: those that it selected
// keep it, and after a restart, when that is not known any more, all are asked to.
func TestASelectorThatCannotBeReadTakesNothingAway(t *testing.T) {
	t.Parallel()
	entry, _ := entryOf(refs[0], 0)
	hold := []wire.Entry{{DeploymentRef: refs[0], Hold: true}}
	manifest := func(table *assignment.Table, device string) []wire.Entry {
		entries, _, _ := table.Manifest(device)
		return entries
	}
	unreadable := assignment.Deployment{DeploymentRef: refs[0], Selector: assignment.Selector{Nothing: true}, Unreadable: true}
	table := assignment.NewTable(nil)
	for device, group := range map[string]string{"edge-1": "a", "edge-2": "b"} {
		table.SetDevice(assignment.Device{Name: device, Labels: map[string]string{"group": group}})
	}
	table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: inGroup("a"), Accepted: true, Entry: entry})
	table.SetDeployment(unreadable)
	if diff := cmp.Diff(hold, manifest(table, "edge-1")); diff != "" {
		t.Errorf("a device that was selected (-want +got):\n%s", diff)
	}
	if got := manifest(table, "edge-2"); len(got) > 0 {
		t.Errorf("a device that was not selected gets %+v", got)
	}

	restarted := assignment.NewTable(map[assignment.Key]wire.Entry{{Device: "edge-1", DeploymentRef: refs[0]}: entry})
	restarted.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"group": "a"}})
	restarted.SetDeployment(unreadable)
	if diff := cmp.Diff(hold, manifest(restarted, "edge-1")); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	restarted.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: inGroup("b"), Accepted: true, Entry: entry})
	if got := manifest(restarted, "edge-1"); len(got) > 0 {
		t.Errorf("when it can be read again, a device that is not selected gets %+v", got)
	}
}

// What does not change the manifest must not make the device fetch it.
func TestOnlyChangedManifestsAreNudged(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything})
	table.SetDevice(assignment.Device{Name: "edge-1"})
	_, before, _ := table.Manifest("edge-1")
	c := table.SetDevice(assignment.Device{Name: "edge-1", Unschedulable: true})
	if _, after, _ := table.Manifest("edge-1"); after != before || len(c.Devices) > 0 {
		t.Errorf("seq went from %d to %d and %v are nudged, although the manifest is the same", before, after, c.Devices)
	}
	if counts, _, _ := table.Aggregate(refs[0]); counts.Matched != 0 {
		t.Errorf("a device that takes nothing new is counted: %+v", counts)
	}
}

// Reports come from a bucket and devices from the API, in any order.
func TestReportMayComeBeforeItsDevice(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	entry, _ := entryOf(refs[0], 0)
	table.SetState("edge-1", wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseRunning, Hash: entry.Hash})
	table.SetState("edge-2", wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseRunning, Hash: entry.Hash})
	table.RemoveState(assignment.Key{Device: "edge-2", DeploymentRef: refs[0]})
	table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: entry})
	table.SetDevice(assignment.Device{Name: "edge-1"})
	table.SetDevice(assignment.Device{Name: "edge-2"})
	got, _, _ := table.Aggregate(refs[0])
	if diff := cmp.Diff(assignment.Counts{Matched: 2, Succeeded: 1, Pending: 1}, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

// A device that was deleted and enrolls again asks with the version that it
// has, so its new manifest must come after that.
func TestSeqOutlivesTheDevice(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	entry, body := entryOf(refs[0], 0)
	table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: entry, Body: body})
	table.SetDevice(assignment.Device{Name: "edge-1"})
	_, before, _ := table.Manifest("edge-1")
	table.RemoveDevice("edge-1")
	table.SetDevice(assignment.Device{Name: "edge-1"})
	if _, after, _ := table.Manifest("edge-1"); after <= before {
		t.Errorf("seq is %d after %d", after, before)
	}
}

func TestNewestFailureIsNamed(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	entry, _ := entryOf(refs[0], 0)
	table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: entry})
	for i, device := range []string{"edge-3", "edge-1", "edge-2"} {
		table.SetDevice(assignment.Device{Name: device})
		at := time.Unix(int64(min(i, 1)), 0) // edge-1 and edge-2 fail at the same time
		table.SetState(device, wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseFailed, Hash: entry.Hash, Error: "no " + device, LastEventAt: at})
	}
	c, _, _ := table.Aggregate(refs[0])
	if c.Newest == nil || c.Newest.Device != "edge-1" || c.Newest.Error != "no edge-1" {
		t.Errorf("the newest failure is %+v, want that of edge-1", c.Newest)
	}
}

// Most of a table's memory is for what devices have: a device's room grows by an eighth.
func TestTargetsTakeLittleRoom(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"group": "a"}})
	grew := 0
	for i := range 200 {
		ref := wire.DeploymentRef{Namespace: "default", Name: fmt.Sprint("shop-", i)}
		entry, body := entryOf(ref, 0)
		_, before := table.Targets("edge-1")
		table.SetDeployment(assignment.Deployment{DeploymentRef: ref, Accepted: true, Selector: inGroup("a"), Entry: entry, Body: body})
		have, room := table.Targets("edge-1")
		if have != i+1 || room > have+have/8+1 {
			t.Fatalf("after %d Deployments there are %d in room for %d", i+1, have, room)
		}
		if room != before {
			grew++
		}
	}
	if grew > 50 {
		t.Errorf("for 200 Deployments the room grew %d times", grew)
	}
}

// The number of a device that went is that of the next one.
func TestNumbersAreUsedAgain(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	for i := range 10 {
		name := fmt.Sprint("edge-", i)
		table.SetDevice(assignment.Device{Name: name})
		table.RemoveDevice(name)
	}
	if n := table.Numbers(); n != 1 {
		t.Errorf("for one device at a time there are %d numbers", n)
	}
}

// A Deployment that changes for years takes the room of its previous versions.
func TestVersionsTakeNoRoom(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.SetDevice(assignment.Device{Name: "edge-1"})
	for version := range 100 {
		entry, _ := entryOf(refs[0], version)
		table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: entry})
	}
	if n := table.Slots(); n > 4 {
		t.Errorf("there is room for %d entries", n)
	}
}

// Many devices fail, recover, and fail again; the newest failure is found each time.
func TestNewestFailureIsFollowed(t *testing.T) {
	t.Parallel()
	entry, _ := entryOf(refs[0], 0)
	rapid.Check(t, func(t *rapid.T) {
		table, failing := assignment.NewTable(nil), map[string]time.Time{}
		table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: entry})
		for range 50 {
			name := fmt.Sprint("edge-", rapid.IntRange(1, 9).Draw(t, "device"))
			s := wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseRunning, Hash: entry.Hash}
			table.SetDevice(assignment.Device{Name: name})
			delete(failing, name)
			if rapid.IntRange(0, 2).Draw(t, "recovers") != 0 {
				s.Phase, s.LastEventAt = wire.PhaseFailed, time.Unix(rapid.Int64Range(1, 5).Draw(t, "at"), 0)
				failing[name] = s.LastEventAt
			}
			table.SetState(name, s)
			want := ""
			for _, name := range slices.Sorted(maps.Keys(failing)) {
				if want == "" || failing[name].After(failing[want]) {
					want = name
				}
			}
			got, _, _ := table.Aggregate(refs[0])
			if got.Failed != len(failing) || (got.Newest == nil) != (want == "") || got.Newest != nil && got.Newest.Device != want {
				t.Fatalf("%d failures, the newest is %+v, want that of %q among %v", got.Failed, got.Newest, want, failing)
			}
		}
	})
}

// A device that fails again, in another way, changes what the status names.
func TestAnotherFailureIsTold(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	entry, _ := entryOf(refs[0], 0)
	table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: entry})
	table.SetDevice(assignment.Device{Name: "edge-1"})
	state := wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseFailed, Hash: entry.Hash}
	for _, state.Error = range []string{"no image", "no disk"} {
		if c := table.SetState("edge-1", state); !slices.Contains(c.Deployments, refs[0]) {
			t.Errorf("nobody is told of %q", state.Error)
		}
		if c, _, _ := table.Aggregate(refs[0]); c.Newest.Error != state.Error {
			t.Errorf("the newest failure is %q, want %q", c.Newest.Error, state.Error)
		}
	}
	state.Phase = wire.PhaseRunning
	table.SetState("edge-1", state)
	if c := table.SetState("edge-1", state); len(c.Deployments) > 0 {
		t.Error("a report that changes nothing is told")
	}
}

// A report about other Secrets than those of now is not current.
func TestReportIsOfTheSecretsOfNow(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	entry, _ := entryOf(refs[0], 0)
	entry.SecretsDigest = wire.Sum([]byte("new")).String()
	table.SetDevice(assignment.Device{Name: "edge-1"})
	table.SetDeployment(assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: entry})
	for digest, want := range map[string]assignment.Counts{
		wire.Sum([]byte("old")).String(): {Matched: 1, Pending: 1},
		entry.SecretsDigest:              {Matched: 1, Succeeded: 1},
	} {
		table.SetState("edge-1", wire.DeploymentState{DeploymentRef: refs[0], Phase: wire.PhaseRunning, Hash: entry.Hash, SecretsDigest: digest})
		got, _, _ := table.Aggregate(refs[0])
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("digest %.8s (-want +got):\n%s", digest, diff)
		}
	}
}

// A device is given the Secrets that its manifest needs, and no others.
func TestSecretsAreForWhoNeedsThem(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	entry, body := entryOf(refs[0], 0)
	deployment := assignment.Deployment{DeploymentRef: refs[0], Selector: inGroup("a"), Accepted: true, Entry: entry, Body: body, Secrets: []string{"db", "login"}}
	table.SetDeployment(deployment)
	table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"group": "a"}})
	table.SetDevice(assignment.Device{Name: "edge-2", Labels: map[string]string{"group": "b"}})
	needs := func(device, namespace, name string, want bool) {
		t.Helper()
		for deployment, all := range map[string][]string{refs[0].Name: {"db", "login"}, "another": nil, "": nil} {
			if !want {
				all = nil
			}
			with, got := table.NeedsSecret(device, wire.DeploymentRef{Namespace: namespace, Name: deployment}, name)
			if got != want || !slices.Equal(with, all) {
				t.Errorf("%s needs %s/%s for %q: %v, with %v", device, namespace, name, deployment, got, with)
			}
		}
	}
	needs("edge-1", "shop", "login", true)
	needs("edge-1", "shop", "other", false)
	needs("edge-1", "yard", "login", false)
	needs("edge-2", "shop", "login", false)
	needs("edge-3", "shop", "login", false)
	deployment.Accepted = false
	table.SetDeployment(deployment)
	needs("edge-1", "shop", "login", false) // it is held: the device keeps what it has
	deployment.Accepted = true
	table.SetDeployment(deployment)
	table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"group": "a"}, Revoked: true})
	needs("edge-1", "shop", "login", false)
}

// bodyOf is a body, rendered where it has to be.
func bodyOf(table *assignment.Table, device, hash string) ([]byte, bool) {
	body, render := table.Body(device, hash)
	if render != nil {
		return render()
	}
	return body, body != nil
}
