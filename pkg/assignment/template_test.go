package assignment_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

var (
	ring = template.Source{Kind: template.Labels, Key: "ring"}
	plc  = template.Source{Kind: template.Annotations, Key: "plc"}
	name = template.Source{Kind: template.Name}
)

// leaf is a template that needs all values that it uses, and takes some only.
type leaf struct {
	text    string
	sources []template.Source
	renders int
}

func (l *leaf) Sources() []template.Source { return l.sources }

func (l *leaf) Render(values template.Values) ([]byte, error) {
	l.renders++
	var b strings.Builder
	b.WriteString(l.text)
	for _, s := range l.sources {
		value, has := values(s)
		switch {
		case !has:
			return nil, fmt.Errorf("no %s", s)
		case value == "b":
			return nil, errors.New("nobody wants b")
		}
		b.WriteString(" " + value)
	}
	return []byte(b.String()), nil
}

// drawTemplate draws none most of the time.
func drawTemplate(t *rapid.T, body []byte) assignment.Template {
	if rapid.IntRange(0, 2).Draw(t, "template") != 0 {
		return nil
	}
	return &leaf{text: "rendered " + string(body), sources: rapid.SampledFrom([][]template.Source{nil, {ring}, {plc}, {name}, {ring, plc}, {name, ring}}).Draw(t, "sources")}
}

func drawValues(t *rapid.T) template.Values {
	value := rapid.SampledFrom(append([]string{"none"}, groups...)).Draw(t, "plc")
	return valuesOf(value)
}

// valuesOf are those of a device with an annotation.
func valuesOf(value string) template.Values {
	return func(s template.Source) (string, bool) { return value, s == plc && value != "none" }
}

// valueOf is what a device has, without an index.
func valueOf(dev assignment.Device) template.Values {
	return func(s template.Source) (string, bool) {
		switch s.Kind {
		case template.Name:
			return dev.Name, true
		case template.Labels:
			value, has := dev.Labels[s.Key]
			return value, has
		}
		return dev.Values(s)
	}
}

// rendered is what the model says of a template on a device.
func rendered(dev assignment.Device, dep assignment.Deployment, before pair) pair {
	body, err := dep.Template.Render(valueOf(dev))
	if err != nil {
		return pair{issued: before.issued, hold: true, problem: err.Error()}
	}
	e := dep.Entry
	e.Revision, e.Hash, e.Size = e.Hash, wire.Sum(body).String(), len(body)
	return pair{issued: e}
}

// awaited is what the model says of a target until its template is rendered.
func awaited(dep assignment.Deployment, before pair, had bool) pair {
	as := before.issued
	as.Hash, as.Size, as.Revision = dep.Entry.Hash, dep.Entry.Size, ""
	if before.issued.Revision == dep.Entry.Hash && as == dep.Entry {
		return pair{issued: before.issued, waits: true}
	}
	return pair{issued: before.issued, hold: !had || before.hold, waits: true, former: true}
}

// problems are those that the model knows, by device.
func (m *machine) problems() map[string][]assignment.Problem {
	all := map[string][]assignment.Problem{}
	for k, p := range m.pairs {
		if p.problem != "" && !m.devices[k.Device].Revoked {
			all[k.Device] = append(all[k.Device], assignment.Problem{DeploymentRef: k.DeploymentRef, Text: p.problem})
		}
	}
	for _, list := range all {
		slices.SortFunc(list, func(a, b assignment.Problem) int { return a.Compare(b.DeploymentRef) })
	}
	return all
}

func (m *machine) checkProblems(t *rapid.T, device string) {
	want := m.problems()[device]
	if diff := cmp.Diff(want, m.table.Problems(device)); diff != "" {
		t.Fatalf("problems of %s (-want +got):\n%s", device, diff)
	}
}

// sited is a Deployment for everybody that uses a label.
func sited(l *leaf) assignment.Deployment {
	e, body := entryOf(refs[0], 0)
	l.text = string(body)
	return assignment.Deployment{DeploymentRef: refs[0], Selector: everything, Accepted: true, Entry: e, Body: body, Template: l, At: time.Unix(1, 0)}
}

// renderAll renders all that waits.
func renderAll(table *assignment.Table) (c assignment.Changes) {
	for more := true; more; {
		var one assignment.Changes
		one, more = table.Render()
		c.Keys, c.Devices, c.Deployments = append(c.Keys, one.Keys...), append(c.Devices, one.Devices...), append(c.Deployments, one.Deployments...)
	}
	return c
}

// A change renders what uses it, and devices with the same values share it.
func TestRenderingsFollowWhatTheyUse(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.Settle()
	device := func(n int, labels map[string]string, plc string) assignment.Changes {
		table.SetDevice(assignment.Device{Name: fmt.Sprintf("edge-%d", n), Labels: labels, Values: valuesOf(plc), Unschedulable: false, Offline: n == 1})
		return renderAll(table)
	}
	for n := range 10 {
		device(n, map[string]string{"ring": "a"}, "1")
	}
	l, other := &leaf{sources: []template.Source{ring}}, &leaf{sources: []template.Source{plc}}
	table.SetDeployment(sited(l))
	second := sited(other)
	second.DeploymentRef = refs[1]
	second.Entry.DeploymentRef = refs[1]
	table.SetDeployment(second)
	expect := func(what string, site, address int) {
		t.Helper()
		renderAll(table)
		if l.renders != site || other.renders != address {
			t.Errorf("%s: %d and %d renderings, want %d and %d", what, l.renders, other.renders, site, address)
		}
		l.renders, other.renders = 0, 0
	}
	expect("ten devices with the same values", 1, 1)
	device(3, map[string]string{"ring": "a", "group": "x"}, "1")
	expect("a label that nothing uses", 0, 0)
	if c := device(3, map[string]string{"ring": "c", "group": "x"}, "1"); len(c.Keys) != 1 || c.Keys[0].DeploymentRef != refs[0] {
		t.Errorf("a label of one of two Deployments changes %v", c.Keys)
	}
	expect("a label that one uses", 1, 0)
	if c := device(3, map[string]string{"ring": "c", "group": "x"}, "2"); len(c.Keys) != 1 || c.Keys[0].DeploymentRef != refs[1] {
		t.Errorf("an annotation of one of two Deployments changes %v", c.Keys)
	}
	expect("an annotation that one uses", 0, 1)
	table.SetDevice(assignment.Device{Name: "edge-3", Labels: map[string]string{"ring": "c"}, Values: valuesOf("2"), Unschedulable: true})
	expect("a device that is unschedulable", 0, 0)
	table.SetDeployment(sited(l))
	expect("the same Deployment", 0, 0)
}

// What one device lacks is its own error.
func TestMissingLabelFailsOneDevice(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"ring": "a"}})
	table.SetDevice(assignment.Device{Name: "edge-2"})
	table.SetDeployment(sited(&leaf{sources: []template.Source{ring}}))
	renderAll(table)
	counts, _, _ := table.Aggregate(refs[0])
	want := assignment.Counts{Matched: 2, Failed: 1, Pending: 1, Newest: &assignment.Failure{Device: "edge-2", Error: "no device.labels.ring", LastEventAt: time.Unix(1, 0)}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	entries, _, _ := table.Manifest("edge-2")
	if len(entries) != 1 || !entries[0].Hold {
		t.Errorf("the device without the label is told %+v", entries)
	}
	entries, _, _ = table.Manifest("edge-1")
	if len(entries) != 1 || entries[0].Hold || entries[0].Revision == "" || entries[0].Revision == entries[0].Hash {
		t.Errorf("the device with the label is told %+v", entries)
	}
	table.SetDevice(assignment.Device{Name: "edge-2", Labels: map[string]string{"ring": "c"}})
	renderAll(table)
	if counts, _, _ := table.Aggregate(refs[0]); counts.Failed != 0 || counts.Newest != nil {
		t.Errorf("with the label: %+v", counts)
	}
}

// withTemplates gives every tenth Deployment a template that uses the label "owner", and as
// many one that uses an annotation.
func (w world) withTemplates() {
	for i := range w.deployments {
		d := w.deployment(i)
		switch i % 10 {
		case 3:
			d.Template = &leaf{text: string(d.Body), sources: []template.Source{{Kind: template.Labels, Key: "owner"}}}
		case 4:
			d.Template = &leaf{text: string(d.Body), sources: []template.Source{plc}}
		}
		w.SetDeployment(d)
	}
}

// BenchmarkTemplates changes one of 10,000 devices with 50 Deployments each, 10 of which have a
// template.
func BenchmarkTemplates(b *testing.B) {
	w := newWorld(10_000, 1000)
	w.withTemplates()
	renderAll(w.Table)
	d := w.device(17)
	d.Labels["owner"], d.Values = "a", valuesOf("1")
	set := func() {
		w.SetDevice(d)
		renderAll(w.Table)
	}
	set()
	run(b, "nothing changed", func(int) { set() })
	run(b, "a label that nothing uses", func(i int) {
		d.Labels["other"] = fmt.Sprint(i % 2)
		set()
	})
	run(b, "a label that 5 templates use, with values that were rendered", func(i int) {
		d.Labels["owner"] = fmt.Sprint(i % 2)
		set()
	})
	run(b, "a label that 5 templates use, with new values", func(i int) {
		d.Labels["owner"] = fmt.Sprint(i)
		set()
	})
}

// Until a device has its rendering, it is told what it was told before, and a new one to keep
// what it runs.
func TestDevicesWaitForTheirRendering(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.Settle()
	table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"ring": "a"}})
	first, second := sited(&leaf{sources: []template.Source{ring}}), sited(&leaf{sources: []template.Source{ring}})
	second.Entry, second.Body = entryOf(refs[0], 1)
	if c := table.SetDeployment(first); len(c.Devices) != 1 {
		t.Errorf("a device with a new Deployment is not told to keep what it runs: %+v", c)
	}
	before, _, _ := table.Manifest("edge-1")
	if len(before) != 1 || !before[0].Hold {
		t.Fatalf("before the first rendering: %+v", before)
	}
	if c := renderAll(table); len(c.Devices) != 1 || len(c.Keys) != 1 || len(c.Deployments) != 1 {
		t.Errorf("the first rendering changes %+v", c)
	}
	rendered, seq, _ := table.Manifest("edge-1")
	table.SetState("edge-1", wire.DeploymentState{DeploymentRef: refs[0], Hash: rendered[0].Hash, Phase: wire.PhaseRunning})
	if c := table.SetDeployment(second); len(c.Devices)+len(c.Keys) > 0 {
		t.Errorf("before it is rendered, the second score changes %+v", c)
	}
	if now, seqNow, _ := table.Manifest("edge-1"); seqNow != seq || !cmp.Equal(rendered, now) {
		t.Errorf("before it is rendered, the manifest is %+v", now)
	}
	if counts, _, _ := table.Aggregate(refs[0]); counts.Succeeded != 0 || counts.Pending != 1 {
		t.Errorf("a device that runs the score before counts: %+v", counts)
	}
	renderAll(table)
	if now, _, _ := table.Manifest("edge-1"); now[0].Revision != second.Entry.Hash {
		t.Errorf("the second score is %+v", now)
	}
}

// A server that starts knows what it told devices before: they are told the same, and counted.
func TestAStartChangesNoRendering(t *testing.T) {
	t.Parallel()
	l := &leaf{sources: []template.Source{ring}}
	d := sited(l)
	body, _ := l.Render(func(template.Source) (string, bool) { return "a", true })
	told, another := d.Entry, d.Entry
	told.Revision, told.Hash, told.Size = d.Entry.Hash, wire.Sum(body).String(), len(body)
	another.Revision, another.Hash = wire.Sum(nil).String(), told.Hash
	table := assignment.NewTable(map[assignment.Key]wire.Entry{{Device: "edge-1", DeploymentRef: refs[0]}: told, {Device: "edge-2", DeploymentRef: refs[0]}: another})
	for _, name := range []string{"edge-1", "edge-2"} {
		table.SetState(name, wire.DeploymentState{DeploymentRef: refs[0], Hash: told.Hash, Phase: wire.PhaseRunning})
		table.SetDevice(assignment.Device{Name: name, Labels: map[string]string{"ring": "a"}})
	}
	table.SetDeployment(d)
	table.Settle()
	if entries, _, _ := table.Manifest("edge-1"); entries[0] != told {
		t.Errorf("a device that was told the same score before is told %+v", entries)
	}
	if got, ok := bodyOf(table, "edge-1", told.Hash); !ok || !cmp.Equal(got, body) {
		t.Errorf("its body is %q", got)
	}
	if entries, _, _ := table.Manifest("edge-2"); !entries[0].Hold {
		t.Errorf("a device that was told an earlier score is told %+v", entries)
	}
	if counts, _, _ := table.Aggregate(refs[0]); counts.Succeeded != 1 || counts.Pending != 1 {
		t.Errorf("counts are %+v", counts)
	}
	if c := renderAll(table); !cmp.Equal(c.Devices, []string{"edge-2"}) {
		t.Errorf("the renderings change %+v", c)
	}
}

// slow renders when it may.
type slow struct {
	leaf
	began, may chan struct{}
}

func (s *slow) Render(values template.Values) ([]byte, error) {
	s.began <- struct{}{}
	<-s.may
	return s.leaf.Render(values)
}

// What changes while a score is rendered comes first, and nobody waits.
func TestRenderingIsOfWhatIs(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*assignment.Table)
		want   string
	}{
		"nothing": {func(*assignment.Table) {}, "rendered a"},
		"the label": {func(t *assignment.Table) {
			t.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"ring": "c"}})
		}, "rendered c"},
		"the score":          {func(t *assignment.Table) { t.SetDeployment(sitedText("another")) }, "another a"},
		"no more":            {func(t *assignment.Table) { t.RemoveDeployment(refs[0]) }, ""},
		"no device":          {func(t *assignment.Table) { t.RemoveDevice("edge-1") }, ""},
		"another device":     {func(t *assignment.Table) { t.RemoveDevice("edge-1"); t.SetDevice(assignment.Device{Name: "edge-1"}) }, "hold"},
		"it is not accepted": {func(t *assignment.Table) { d := sitedText("x"); d.Accepted = false; t.SetDeployment(d) }, "hold"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := assignment.NewTable(nil)
			table.Settle()
			table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"ring": "a"}})
			s := &slow{leaf{sources: []template.Source{ring}}, make(chan struct{}, 9), make(chan struct{})}
			d := sitedText("rendered")
			s.text, d.Template = "rendered", s
			table.SetDeployment(d)
			done := make(chan struct{})
			go func() { defer close(done); renderAll(table) }()
			<-s.began
			tc.change(table) // and does not wait for the rendering
			table.Manifest("edge-1")
			close(s.may)
			<-done
			renderAll(table)
			got := ""
			entries, _, _ := table.Manifest("edge-1")
			for _, e := range entries {
				body, _ := bodyOf(table, "edge-1", e.Hash)
				if got = string(body); e.Hold {
					got = "hold"
				}
			}
			if got != tc.want {
				t.Errorf("the device is told %q, want %q", got, tc.want)
			}
			table.RemoveDeployment(refs[0])
			table.RemoveDevice("edge-1")
			if held := table.Held(); len(held) > 0 {
				t.Errorf("an empty table holds %v", held)
			}
		})
	}
}

// Values that a device had when it began to wait are those of nobody.
func TestRenderingIsOfItsValues(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"ring": "a"}})
	table.SetDeployment(sitedText("rendered"))
	table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"ring": "c"}})
	renderAll(table)
	table.SetDevice(assignment.Device{Name: "edge-2", Labels: map[string]string{"ring": "a"}})
	renderAll(table)
	for device, want := range map[string]string{"edge-1": "rendered c", "edge-2": "rendered a"} {
		entries, _, _ := table.Manifest(device)
		if got, ok := bodyOf(table, device, entries[0].Hash); !ok || string(got) != want {
			t.Errorf("%s is told %q, want %q", device, got, want)
		}
	}
}

// sitedText is sited with a text of its own.
func sitedText(text string) assignment.Deployment {
	l := &leaf{sources: []template.Source{ring}}
	d := sited(l)
	l.text = text
	return d
}

// BenchmarkTemplateOfMany changes what 10,000 devices run, each with values of its own. Nobody else
// can ask the table meanwhile.
func BenchmarkTemplateOfMany(b *testing.B) {
	table := assignment.NewTable(nil)
	for i := range 10_000 {
		table.SetDevice(assignment.Device{Name: fmt.Sprint("edge-", i), Labels: map[string]string{"ring": fmt.Sprint(i)}})
	}
	d := sited(&leaf{sources: []template.Source{ring}})
	table.SetDeployment(d)
	renderAll(table)
	for name, tmpl := range map[string]bool{"with a template": true, "without": false} {
		run(b, name, func(i int) {
			d := d
			d.Entry, d.Body = entryOf(refs[0], i)
			if d.Template = nil; tmpl {
				d.Template = &leaf{sources: []template.Source{ring}, text: fmt.Sprint(i)}
			}
			table.SetDeployment(d)
		})
	}
}
