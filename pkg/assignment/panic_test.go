package assignment_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

// mistake is one of the program, which happens while it is on.
type mistake struct{ on bool }

// values are those of a device with an annotation, which may panic.
func (m *mistake) values(plc string) template.Values {
	of := valuesOf(plc)
	return func(s template.Source) (string, bool) {
		if m.on {
			panic("a mistake")
		}
		return of(s)
	}
}

// survive makes a change as the controllers do: a panic, which has to happen, is survived.
func survive(t *testing.T, change func() assignment.Changes) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("nothing panicked: this test proves nothing")
		}
	}()
	change()
}

// site returns a table with a Deployment for everybody, and what its changes asked for.
func site(t *testing.T, m *mistake) (table *assignment.Table, said func(assignment.Changes), all *assignment.Changes) {
	t.Helper()
	table, all = assignment.NewTable(nil), &assignment.Changes{}
	table.Settle()
	said = func(c assignment.Changes) {
		all.Keys, all.Devices = append(all.Keys, c.Keys...), append(all.Devices, c.Devices...)
		all.Deployments = append(all.Deployments, c.Deployments...)
	}
	e, body := entryOf(refs[1], 0)
	said(table.SetDeployment(assignment.Deployment{DeploymentRef: refs[1], Selector: everything, Accepted: true, Entry: e, Body: body}))
	for i := range 9 {
		values := valuesOf("1")
		if i == 5 {
			values = m.values("1")
		}
		said(table.SetDevice(assignment.Device{Name: edge(i), Values: values}))
	}
	return table, said, all
}

func edge(i int) string { return fmt.Sprintf("edge-%d", i) }

// complete wants every device to be told of both Deployments, and nobody to wait.
func complete(t *testing.T, table *assignment.Table, said func(assignment.Changes), all *assignment.Changes) {
	t.Helper()
	said(renderAll(table))
	for i := range 9 {
		entries, _, _ := table.Manifest(edge(i))
		if len(entries) != 2 || entries[0].Hold || entries[1].Hold {
			t.Errorf("%s is told %+v", edge(i), entries)
		}
		for _, ref := range refs[:2] {
			if !slices.Contains(all.Keys, assignment.Key{Device: edge(i), DeploymentRef: ref}) {
				t.Errorf("the key of %s on %s is never written", ref, edge(i))
			}
		}
		if !slices.Contains(all.Devices, edge(i)) {
			t.Errorf("%s is never nudged", edge(i))
		}
	}
	for _, ref := range refs[:2] {
		if !slices.Contains(all.Deployments, ref) {
			t.Errorf("the status of %s is never written", ref)
		}
		counts, _, _ := table.Aggregate(ref)
		if diff := cmp.Diff(assignment.Counts{Matched: 9, Pending: 9}, counts); diff != "" {
			t.Errorf("counts of %s (-want +got):\n%s", ref, diff)
		}
	}
}

// A change of a Deployment that panics at one of its devices is made as a whole when it is
// made again, and what its first part asked for is carried out.
func TestADeploymentThatPanicsHalfway(t *testing.T) {
	t.Parallel()
	m := &mistake{}
	table, said, all := site(t, m)
	d := sited(&leaf{sources: []template.Source{plc}})
	m.on = true
	survive(t, func() assignment.Changes { return table.SetDeployment(d) })
	m.on = false
	again := table.SetDeployment(d)
	for i := range 9 { // which hold what they run until it is rendered
		if !slices.Contains(again.Devices, edge(i)) {
			t.Errorf("%s is not nudged", edge(i))
		}
	}
	said(again)
	complete(t, table, said, all)

	// Nor does one that goes stay on a device.
	said(table.RemoveDeployment(refs[0]))
	for i := range 9 {
		if entries, _, _ := table.Manifest(edge(i)); len(entries) != 1 {
			t.Errorf("after the deletion %s is told %+v", edge(i), entries)
		}
	}
}

// The same of a change of a device.
func TestADeviceThatPanicsHalfway(t *testing.T) {
	t.Parallel()
	m := &mistake{}
	table, said, all := site(t, m)
	d := sited(&leaf{sources: []template.Source{plc}})
	said(table.SetDeployment(d))
	complete(t, table, said, all)
	m.on = true
	fresh := assignment.Device{Name: edge(9), Values: m.values("2")}
	survive(t, func() assignment.Changes { return table.SetDevice(fresh) })
	m.on = false
	*all = assignment.Changes{}
	said(table.SetDevice(fresh))
	said(renderAll(table))
	entries, _, known := table.Manifest(edge(9))
	if !known || len(entries) != 2 || entries[0].Hold || entries[1].Hold {
		t.Errorf("the device is told %+v", entries)
	}
	if len(all.Keys) != 2 || !slices.Contains(all.Devices, edge(9)) {
		t.Errorf("what is carried out is %+v", all)
	}
}

// angry is a template that panics.
type angry struct {
	leaf
	*mistake
}

func (a *angry) Render(values template.Values) ([]byte, error) {
	if a.on {
		panic("a mistake")
	}
	return a.leaf.Render(values)
}

// A rendering that panics is waited for still, and that of no other Deployment waits for it.
func TestARenderingThatPanics(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	table.Settle()
	for i := range 9 {
		table.SetDevice(assignment.Device{Name: edge(i), Values: valuesOf(fmt.Sprint(i % 2))})
	}
	a := &angry{leaf{sources: []template.Source{plc}}, &mistake{on: true}}
	first, second := sited(&a.leaf), sited(&leaf{sources: []template.Source{plc}})
	first.Template = a
	second.DeploymentRef, second.Entry.DeploymentRef = refs[1], refs[1]
	table.SetDeployment(first)
	table.SetDeployment(second)
	for range 4 { // two values of each
		func() {
			defer func() { _ = recover() }()
			table.Render()
		}()
	}
	for i := range 9 {
		entries, _, _ := table.Manifest(edge(i))
		if len(entries) != 2 || entries[0].Hold || !entries[1].Hold {
			t.Errorf("%s is told %+v, want what can be rendered", edge(i), entries)
		}
	}
	a.on = false
	renderAll(table)
	for i := range 9 {
		if entries, _, _ := table.Manifest(edge(i)); len(entries) != 2 || entries[0].Hold || entries[1].Hold {
			t.Errorf("afterwards %s is told %+v", edge(i), entries)
		}
	}
}
