package assignment

import (
	"slices"

	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// matchSlice is how many targets are matched while the table is locked once.
const matchSlice = 256

// order asks for a rendering. Until it is there, the devices that wait for it are told what they
// were told before.
type order struct {
	key string
	// devices are the numbers of those that wait.
	devices set
}

// due are the renderings that a Deployment waits for.
type due struct {
	byKey map[string]*order
	// next has them as they came.
	next []*order
}

// add makes a device wait.
func (d *due) add(key string, device uint32) {
	o := d.byKey[key]
	if o == nil {
		o = &order{key: key}
		if d.byKey == nil {
			d.byKey = map[string]*order{}
		}
		d.byKey[key] = o
		d.next = append(d.next, o)
	}
	o.devices.add(device)
}

// take takes the order that came first; nil when there is none.
func (d *due) take() *order {
	if len(d.next) == 0 {
		return nil
	}
	o := d.next[0]
	d.next[0] = nil
	d.next = d.next[1:]
	delete(d.byKey, o.key)
	return o
}

// order makes a device wait for the rendering of a key.
func (t *Table) order(dep *deployment, key string, device uint32) {
	if len(dep.template.due.next) == 0 {
		t.due = append(t.due, dep)
	}
	dep.template.due.add(key, device)
}

// Render renders what devices wait for, for one set of values, and puts it in. It returns false
// when nothing waits. The table is not locked while a score is rendered, and otherwise for a
// number of devices at a time.
func (t *Table) Render() (c Changes, rendered bool) {
	w := t.nextWork()
	if w == nil {
		return c, false
	}
	waiting, panics := w.devices, true
	defer func() {
		if panics {
			t.putBack(w, waiting, c)
		}
	}()
	body, err := w.renderer.Render(w.values)
	if err != nil {
		w.problem = err.Error()
	} else {
		w.hash, w.size = wire.Sum(body).String(), len(body)
	}
	for t.putIn(w, &c) {
	}
	c.Deployments = slices.Compact(c.Deployments) // there is one
	panics = false
	return c, true
}

// putBack takes a rendering back that panicked, behind those of other Deployments, for the
// devices that still wait for it, and what it had asked for.
func (t *Table) putBack(w *work, devices []uint32, c Changes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.untold = Changes{
		Keys: append(t.untold.Keys, c.Keys...), Devices: append(t.untold.Devices, c.Devices...),
		Deployments: append(t.untold.Deployments, c.Deployments...), Lacks: append(t.untold.Lacks, c.Lacks...),
	}
	if w.dep.template != w.renderer {
		return
	}
	for _, number := range devices {
		if t.waits(t.numberedDevices.at(number), w.dep) {
			t.order(w.dep, w.key, number)
		}
	}
}

// work is a rendering under way. What it is of may change meanwhile.
type work struct {
	dep      *deployment
	renderer *renderer
	key      string
	values   template.Values
	// devices are those that are still to be matched.
	devices []uint32

	hash    string
	size    int
	problem string
	// known: the table has it.
	known bool
}

// nextWork takes Deployments in turn, so that one with many devices delays no other.
func (t *Table) nextWork() *work {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.due) > 0 {
		dep := t.due[0]
		t.due = t.due[1:]
		o := dep.template.due.take()
		if len(dep.template.due.next) > 0 {
			t.due = append(t.due, dep)
		}
		if waiting := t.waiting(dep, o); len(waiting) > 0 {
			values := dep.template.snapshot(t.numberedDevices.at(waiting[0]))
			return &work{dep: dep, renderer: dep.template, key: o.key, values: values, devices: waiting}
		}
	}
	t.due = nil
	return nil
}

// waiting returns the numbers of devices that wait for an order, of which the first has its values:
// those that the order names may be gone, or may have others by now.
func (t *Table) waiting(dep *deployment, o *order) []uint32 {
	devices := o.devices.members()
	first := slices.IndexFunc(devices, func(number uint32) bool {
		dev := t.numberedDevices.at(number)
		return t.waits(dev, dep) && dep.template.key(dev) == o.key
	})
	if first < 0 {
		return nil
	}
	return devices[first:]
}

// waits reports whether a device waits for a rendering; nil does not.
func (t *Table) waits(dev *device, dep *deployment) bool {
	return dev != nil && dev.target(dep.number).is(unrendered)
}

// putIn matches some of the devices that wait for what was rendered. It returns false when none
// is left, or when nobody wants it any more.
func (t *Table) putIn(w *work, c *Changes) (more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.dep.template != w.renderer {
		return false
	}
	t.changes++
	if !w.known {
		w.known = true
		*c, t.untold = t.untold, Changes{}
		t.remember(w)
	}
	some := w.devices[:min(matchSlice, len(w.devices))]
	w.devices = w.devices[len(some):]
	for _, number := range some {
		if dev := t.numberedDevices.at(number); t.waits(dev, w.dep) {
			t.match(dev, w.dep, c)
		}
	}
	return len(w.devices) > 0
}
