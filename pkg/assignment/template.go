package assignment

import (
	"slices"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Template renders the score of a device. Its methods are pure, and may be called from
// several goroutines. Two that are equal (==) are the same.
type Template interface {
	// Sources are the values that Render uses.
	Sources() []template.Source
	// Render returns a body. The error is for people.
	Render(template.Values) ([]byte, error)
}

// renderer is the template of a Deployment, with what it was rendered to.
type renderer struct {
	Template
	sources []template.Source
	// known are renderings by the values that they are of.
	known map[string]rendering
	due   due
}

// rendering is what became of a template on a device: an entry, by number, or a problem.
type rendering struct {
	entry   uint32
	problem string
}

func newRenderer(t Template) *renderer {
	if t == nil {
		return nil
	}
	return &renderer{Template: t, sources: t.Sources(), known: map[string]rendering{}}
}

// is reports whether it is the renderer of a template.
func (r *renderer) is(t Template) bool {
	if r == nil {
		return t == nil
	}
	return r.Template == t
}

// setTemplate replaces the template of a Deployment.
func (t *Table) setTemplate(dep *deployment, tmpl Template) {
	if dep.template.is(tmpl) {
		return
	}
	if dep.template != nil {
		t.forgetRenderings(dep.template)
		t.due = slices.DeleteFunc(t.due, func(waits *deployment) bool { return waits == dep })
		t.templates--
	}
	if dep.template = newRenderer(tmpl); tmpl != nil {
		t.templates++
	}
}

func (t *Table) forgetRenderings(r *renderer) {
	if r == nil {
		return
	}
	for _, known := range r.known {
		t.entries.release(known.entry)
	}
	clear(r.known)
}

// rendered returns what a device is to be told of a Deployment with a template, and false when
// that has to be rendered first. Devices with the same values share a rendering.
func (t *Table) rendered(dev *device, dep *deployment) (rendering, bool) {
	key := dep.template.key(dev)
	known, is := dep.template.known[key]
	if !is {
		t.order(dep, key, dev.number)
	}
	return known, is
}

// remember keeps what was rendered.
func (t *Table) remember(w *work) {
	r := w.renderer
	if len(r.known) >= spareRenderings+2*w.dep.devices.len() { // most are of values that changed
		t.forgetRenderings(r)
	}
	if previous, is := r.known[w.key]; is {
		t.entries.release(previous.entry)
	}
	r.known[w.key] = rendering{problem: w.problem}
	if w.problem == "" {
		entry := *t.entries.value(w.dep.entry)
		entry.Revision, entry.Hash, entry.Size = entry.Hash, w.hash, w.size
		r.known[w.key] = rendering{entry: t.entries.number(entry)}
	}
}

// spareRenderings is how many are kept of a Deployment that is on no device.
const spareRenderings = 16

// key tells the values that a device has of the sources from others.
func (r *renderer) key(dev *device) string {
	var b strings.Builder
	for _, s := range r.sources {
		value, has := dev.value(s)
		if has {
			b.WriteString(strconv.Itoa(len(value)))
		}
		b.WriteByte(':')
		b.WriteString(value)
	}
	return b.String()
}

// value implements template.Values.
func (d *device) value(s template.Source) (string, bool) {
	switch {
	case s.Kind == template.Name:
		return d.name, true
	case s.Kind == template.Labels:
		for _, l := range d.labels {
			if l.key.text == s.Key {
				return l.text, true
			}
		}
	case d.values != nil:
		return d.values(s)
	}
	return "", false
}

// snapshot returns the values of a device as they are now.
func (r *renderer) snapshot(dev *device) template.Values {
	values := make(map[template.Source]string, len(r.sources))
	for _, s := range r.sources {
		if value, has := dev.value(s); has {
			values[s] = value
		}
	}
	return func(s template.Source) (string, bool) {
		value, has := values[s]
		return value, has
	}
}

// usedBefore notes, before a device changes, what its Deployments with templates use of it.
func (t *Table) usedBefore(dev *device) map[*deployment]string {
	if t.templates == 0 {
		return nil
	}
	var used map[*deployment]string
	for _, x := range dev.targets {
		if dep := t.numberedDeployments.at(x.number()); x.is(wanted) && dep.template != nil {
			if used == nil {
				used = map[*deployment]string{}
			}
			used[dep] = dep.template.key(dev)
		}
	}
	return used
}

// usedOther calls f with those Deployments that use something of the device that changed.
func usedOther(dev *device, before map[*deployment]string, f func(*deployment)) {
	for dep, values := range before {
		if dep.template.key(dev) != values {
			f(dep)
		}
	}
}

// Body returns a body that the manifest of the device names, or what renders it, which takes
// time when it is large; neither when there is none.
func (t *Table) Body(name, hash string) (body []byte, render func() ([]byte, bool)) {
	body, tmpl, values := t.bodyOf(name, hash)
	if tmpl == nil {
		return body, nil
	}
	return nil, func() ([]byte, bool) {
		body, err := tmpl.Render(values)
		return body, err == nil && wire.Sum(body).String() == hash
	}
}

// bodyOf returns a body, or what it is rendered from.
func (t *Table) bodyOf(name, hash string) (body []byte, tmpl Template, values template.Values) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	dev := t.member(name)
	for dep, x := range t.wanted(dev) {
		issued := t.entries.value(x.issued)
		if x.is(hold) || issued.Hash != hash {
			continue
		}
		if dep.template != nil {
			return nil, dep.template.Template, dep.template.snapshot(dev)
		}
		if t.entries.value(dep.entry).Hash == hash {
			return dep.body, nil, nil
		}
	}
	return nil, nil, nil
}

// problems are those for which the score of a Deployment cannot be rendered, by number of the
// device.
type problems map[uint32]*failure

// setProblem notes why the score cannot be rendered for a device, or that it can.
func (d *deployment) setProblem(dev *device, text string) {
	switch {
	case text == "":
		delete(d.problems, dev.number)
	case d.problems == nil:
		d.problems = problems{}
		fallthrough
	default:
		d.problems[dev.number] = &failure{Failure: Failure{dev.name, text, d.at}}
	}
}

// text is empty for none.
func (p problems) text(device uint32) string {
	if f := p[device]; f != nil {
		return f.Error
	}
	return ""
}

// Problem is why the score of a Deployment cannot be rendered for a device. Text names the field
// and what the device lacks.
type Problem struct {
	wire.DeploymentRef
	Text string
}

// Problems returns why a device is not told of Deployments that it should run, ordered. The
// device keeps what it runs of them.
func (t *Table) Problems(name string) (found []Problem) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	dev := t.member(name)
	for dep, x := range t.wanted(dev) {
		if x.is(refused) {
			found = append(found, Problem{dep.DeploymentRef, dep.problems.text(dev.number)})
		}
	}
	slices.SortFunc(found, func(a, b Problem) int { return a.Compare(b.DeploymentRef) })
	return found
}
