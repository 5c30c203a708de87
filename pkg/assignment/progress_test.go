package assignment_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// One device is shown until it has what it fetches, whoever else fetches something: only its
// reports, and those after it is done, make the status be written.
func TestProgressIsThatOfOneDevice(t *testing.T) {
	t.Parallel()
	table := assignment.NewTable(nil)
	for _, name := range []string{"edge-1", "edge-2"} {
		table.SetDevice(assignment.Device{Name: name, Labels: map[string]string{"group": "a"}})
	}
	table.SetDevice(assignment.Device{Name: "foreign"})
	ref := refs[0]
	entry, body := entryOf(ref, 1)
	table.SetDeployment(assignment.Deployment{DeploymentRef: ref, Selector: inGroup("a"), Accepted: true, Entry: entry, Body: body})
	reports := func(device, text string) func() assignment.Changes {
		return func() assignment.Changes {
			return table.SetState(device, wire.DeploymentState{DeploymentRef: ref, Phase: wire.PhasePending, Hash: entry.Hash, Progress: text})
		}
	}
	offline := func() assignment.Changes {
		return table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"group": "a"}, Offline: true})
	}
	leaves := func() assignment.Changes {
		return table.SetDevice(assignment.Device{Name: "edge-1", Labels: map[string]string{"group": "b"}})
	}
	first, second := &assignment.Progress{Device: "edge-1", Text: "pulling web: 1 of 9 MB"}, &assignment.Progress{Device: "edge-2", Text: "pulling web: 2 of 9 MB"}
	for _, step := range []struct {
		name   string
		change func() assignment.Changes
		told   bool
		shown  *assignment.Progress
	}{
		{"a device on which it does not belong", reports("foreign", "pulling web: 5 of 9 MB"), false, nil},
		{"the first", reports("edge-1", first.Text), true, first},
		{"the same again", reports("edge-1", first.Text), false, first},
		{"another one", reports("edge-2", second.Text), false, first},
		{"the first is done", reports("edge-1", ""), true, nil},
		{"the other one goes on", reports("edge-2", second.Text), true, second},
		{"and is done", reports("edge-2", ""), true, nil},
		{"the first again", reports("edge-1", first.Text), true, first},
		{"it is cut off", offline, true, nil},
		{"and goes on", reports("edge-1", first.Text), true, first},
		{"it is another group's", leaves, true, nil},
		{"and says something all the same", reports("edge-1", first.Text), false, nil},
		{"once more", reports("edge-2", second.Text), true, second},
		{"its report goes", func() assignment.Changes {
			return table.RemoveState(assignment.Key{Device: "edge-2", DeploymentRef: ref})
		}, true, nil},
	} {
		changes := step.change()
		counts, _, _ := table.Aggregate(ref)
		if diff := cmp.Diff(step.shown, counts.Progress); diff != "" || (len(changes.Deployments) > 0) != step.told {
			t.Errorf("%s: %v is told: %s", step.name, changes.Deployments, diff)
		}
	}
}
