package assignment_test

import (
	"errors"
	"fmt"
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

func (m *machine) checkProblems(t *rapid.T, device string) {
	want := map[wire.DeploymentRef]string{}
	for k, p := range m.pairs {
		if k.Device == device && p.problem != "" && !m.devices[device].Revoked {
			want[k.DeploymentRef] = p.problem
		}
	}
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

// A change renders what uses it, and devices with the same values share it.
func TestRenderingsFollowWhatTheyUse(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.Settle()
	device := func(n int, labels map[string]string, plc string) assignment.Changes {
		return table.SetDevice(assignment.Device{Name: fmt.Sprintf("edge-%d", n), Labels: labels, Values: valuesOf(plc), Unschedulable: false, Offline: n == 1})
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
	d := w.device(17)
	d.Labels["owner"], d.Values = "a", valuesOf("1")
	w.SetDevice(d)
	run(b, "nothing changed", func(int) { w.SetDevice(d) })
	run(b, "a label that nothing uses", func(i int) {
		d.Labels["other"] = fmt.Sprint(i % 2)
		w.SetDevice(d)
	})
	run(b, "a label that 5 templates use, with values that were rendered", func(i int) {
		d.Labels["owner"] = fmt.Sprint(i % 2)
		w.SetDevice(d)
	})
	run(b, "a label that 5 templates use, with new values", func(i int) {
		d.Labels["owner"] = fmt.Sprint(i)
		w.SetDevice(d)
	})
}
