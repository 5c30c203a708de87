package assignment

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// target is what is known of one Deployment on one device: that it should run
// there, what the device reports about it, or both. There are many of them, so it
// holds numbers and no pointer.
type target struct {
	// deployment is the number of the Deployment above the flags.
	deployment uint32
	// issued is the number of what the device was told to run, 0 if nothing yet. It
	// is the value of the key in the bucket.
	issued uint32
	// report is the number of what the device reports, 0 if nothing.
	report uint32
}

type flags uint32

const (
	// wanted: the Deployment belongs on the device.
	wanted flags = 1 << iota
	// hold: the manifest asks the device to keep what it runs.
	hold
	// reserved: the device takes no new Deployments, so this one does not count
	// as matched. The hold is there in case the device runs it although the
	// bucket, which would tell, was lost.
	reserved
	// outdated: the agent lacks what the Deployment needs.
	outdated
	// refused: the score cannot be rendered for the device.
	refused
	// unrendered: the score is not rendered for the device yet, which is told what it was told
	// before.
	unrendered
	// former: what it was told before is of another score or with other Secrets.
	former

	flagBits = iota
	allFlags = 1<<flagBits - 1
)

func newTarget(number uint32) target { return target{deployment: number << flagBits} }

func (t target) number() uint32 { return t.deployment >> flagBits }

func (t target) is(f flags) bool { return flags(t.deployment)&f != 0 }

func (t *target) set(f flags) { t.deployment = t.deployment&^allFlags | uint32(f) }

// empty: nothing is known.
func (t target) empty() bool { return !t.is(wanted) && t.report == 0 }

// entry is what the manifest says of the target.
func (t target) entry() manifestEntry {
	switch {
	case !t.is(wanted):
		return manifestEntry{}
	case t.is(hold):
		return manifestEntry{listed: true, held: true}
	}
	return manifestEntry{listed: true, issued: t.issued}
}

// manifestEntry is an entry of a manifest, by number.
type manifestEntry struct {
	listed, held bool
	issued       uint32
}

// device is a device of the API, or the name by which reports came that have no
// device yet.
type device struct {
	name   string
	number uint32
	// known: the API has the device.
	known bool

	unschedulable, revoked, offline bool

	traits *traits
	values template.Values
	seq    uint64
	// labels are those of the index, without order.
	labels []*label
	// targets are ordered by the number of the Deployment.
	targets []target
}

// find returns where the target for a Deployment is or belongs.
func (d *device) find(number uint32) (i int, found bool) {
	if last := len(d.targets) - 1; last < 0 || d.targets[last].number() < number {
		return last + 1, false // the newest Deployment, and every one while a server starts
	}
	return slices.BinarySearchFunc(d.targets, number, func(t target, n uint32) int { return cmp.Compare(t.number(), n) })
}

// target returns the target for a Deployment, without flags if there is none.
func (d *device) target(number uint32) target {
	if i, found := d.find(number); found {
		return d.targets[i]
	}
	return newTarget(number)
}

// put replaces the target for its Deployment, or removes it when nothing is known.
func (d *device) put(t target) {
	i, found := d.find(t.number())
	switch {
	case found && t.empty():
		d.targets = slices.Delete(d.targets, i, i+1)
	case found:
		d.targets[i] = t
	case !t.empty():
		d.grow()
		d.targets = slices.Insert(d.targets, i, t)
	}
}

// grow makes room in small steps: targets are most of the table's memory.
func (d *device) grow() {
	if len(d.targets) < cap(d.targets) {
		return
	}
	larger := make([]target, len(d.targets), len(d.targets)+1+len(d.targets)/8)
	copy(larger, d.targets)
	d.targets = larger
}

// allows reports whether Deployments of the namespace may run on the device.
func (d *device) allows(namespace string) bool {
	return d.traits.namespaces == nil || slices.Contains(d.traits.namespaces, namespace)
}

// traits are what many devices have in common.
type traits struct {
	// namespaces is nil when every namespace may target the device.
	namespaces []string
	// can is nil when the agent does not say what it can do.
	can []wire.Capability

	devices int
}

// key tells traits apart: names have no NUL.
func (t *traits) key() string {
	var b strings.Builder
	write := func(list []string) {
		if list != nil {
			b.WriteByte('+')
		}
		for _, s := range list {
			b.WriteString(s)
			b.WriteByte(0)
		}
	}
	write(t.namespaces)
	b.WriteByte('/')
	if t.can != nil {
		b.WriteByte('+')
	}
	for _, c := range t.can {
		b.WriteString(string(c))
		b.WriteByte(0)
	}
	return b.String()
}

// deployment is a Deployment of the API, or one that only reports are about.
type deployment struct {
	wire.DeploymentRef
	number uint32
	// known: the API has the Deployment.
	known, deleting, accepted bool
	// refusal is why it is not accepted; none when it is.
	refusal    Refusal
	generation int64
	selection  selection
	entry      uint32
	body       []byte
	secrets    []string
	needs      []wire.Capability
	// template renders the score; nil for one that is the same on each device.
	template *renderer
	// devices are those on which it is wanted.
	devices set
	// targets is how many there are, of devices that want it or report about it.
	targets int
	counts  Counts
	// progress is what a device is fetching; nil when none says.
	progress *Progress
	failures
	problems problems
	at       time.Time
	// seen and told are the last changes of the table that looked at the Deployment,
	// and that said that its status may have changed.
	seen, told uint64
}
