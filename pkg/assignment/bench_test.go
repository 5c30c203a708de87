package assignment_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/measure"
)

// perDevice is how many Deployments the devices of the benchmarks have.
const perDevice = 50

// world is a fleet of sites with 50 Deployments each.
type world struct {
	*assignment.Table
	devices, deployments int
}

func newWorld(devices, deployments int) world {
	w := world{assignment.NewTable(nil), devices, deployments}
	for i := range devices {
		w.SetDevice(w.device(i))
	}
	for i := range deployments {
		w.SetDeployment(w.deployment(i))
	}
	return w
}

func (w world) sites() int { return w.deployments / perDevice }

func (w world) device(i int) assignment.Device {
	name := fmt.Sprintf("device-%07d", i)
	return assignment.Device{
		Name: name,
		Labels: map[string]string{
			"device-id": name, "fleet.nationtech.io/device-id": name, "kubernetes.io/arch": []string{"amd64", "arm64"}[i%2], "kubernetes.io/os": "linux",
			"site": fmt.Sprint("site-", i%w.sites()), "ring": "stable",
		},
		Capabilities: []wire.Capability{wire.CanPodmanV0},
	}
}

// deployment is the nth of its site, and its selector is of one of several kinds.
func (w world) deployment(i int) assignment.Deployment {
	ref := wire.DeploymentRef{Namespace: "shop", Name: fmt.Sprint("deployment-", i)}
	d := assignment.Deployment{DeploymentRef: ref, Accepted: true, Needs: []wire.Capability{wire.CanPodmanV0}}
	d.Entry, d.Body = entryOf(ref, 0)
	d.Selector.Requirements = []assignment.Requirement{{Key: "site", Operator: assignment.In, Values: []string{fmt.Sprint("site-", i/perDevice%w.sites())}}}
	switch i % 10 {
	case 0:
		d.Selector.Requirements = append(d.Selector.Requirements, assignment.Requirement{Key: "kubernetes.io/arch", Operator: assignment.In, Values: []string{"amd64", "arm64"}})
	case 1:
		d.Selector.Requirements = append(d.Selector.Requirements, assignment.Requirement{Key: "ring", Operator: assignment.NotIn, Values: []string{"broken"}})
	case 2:
		d.Selector.Requirements = append(d.Selector.Requirements, assignment.Requirement{Key: "ring", Operator: assignment.Exists})
	}
	return d
}

// everywhere adds Deployments without a positive requirement, which match no device.
func (w world) everywhere(n int) {
	for i := range n {
		ref := wire.DeploymentRef{Namespace: "everywhere", Name: fmt.Sprint("deployment-", i)}
		w.SetDeployment(assignment.Deployment{DeploymentRef: ref, Accepted: true, Selector: assignment.Selector{Requirements: []assignment.Requirement{
			{Key: "ring", Operator: assignment.NotIn, Values: []string{"stable", "canary"}}, {Key: "site", Operator: assignment.DoesNotExist},
		}}})
	}
}

// run measures f, also in processor time, which counts on a machine that is shared.
func run(b *testing.B, name string, f func(i int)) {
	b.Run(name, func(b *testing.B) { measure.CPU(b, f) })
}

// BenchmarkDevice changes one of 10,000 devices that 1,000 Deployments select.
func BenchmarkDevice(b *testing.B) {
	w := newWorld(10_000, 1000)
	w.everywhere(100)
	change := func(name, key string, values ...string) {
		d := w.device(17)
		run(b, name, func(i int) {
			d.Labels[key] = values[i%len(values)]
			w.SetDevice(d)
		})
	}
	change("nothing changed", "ring", "stable")
	change("a label that no Deployment mentions", "owner", "a", "b")
	change("a label that 100 Deployments mention", "ring", "canary", "stable")
	change("a label that 200 Deployments mention", "ring", "broken", "stable")
	change("another site with other 50 Deployments", "site", "site-3", "site-4")
	run(b, "comes and goes", func(i int) {
		d := w.device(1_000_000 + i%100)
		w.SetDevice(d)
		w.RemoveDevice(d.Name)
	})
	d := w.device(17)
	run(b, "disconnects and connects", func(i int) {
		d.Offline = i%2 == 0
		w.SetDevice(d)
	})
}

// BenchmarkEverywhere shows what Deployments without a positive requirement cost a
// device whose labels change and one that is new.
func BenchmarkEverywhere(b *testing.B) {
	for _, n := range []int{0, 1000, 10_000} {
		w := newWorld(100, perDevice)
		w.everywhere(n)
		d := w.device(17)
		run(b, fmt.Sprintf("%d, a label changes", n), func(i int) {
			d.Labels["owner"] = []string{"a", "b"}[i%2]
			w.SetDevice(d)
		})
		newcomer := w.device(1000)
		run(b, fmt.Sprintf("%d, a new device", n), func(int) {
			w.SetDevice(newcomer)
			w.RemoveDevice(newcomer.Name)
		})
	}
}

// BenchmarkReport counts one report among 10,000 devices that one Deployment and 999
// others select.
func BenchmarkReport(b *testing.B) {
	w := newWorld(10_000, 1000)
	all := w.deployment(0)
	all.Selector = everything
	w.SetDeployment(all)
	names := make([]string, w.devices)
	for i := range names {
		names[i] = w.device(i).Name
	}
	phases := func(name string, phases ...wire.Phase) {
		run(b, name, func(i int) {
			w.SetState(names[i%w.devices], wire.DeploymentState{
				DeploymentRef: all.DeploymentRef, Hash: all.Entry.Hash, Phase: phases[i/w.devices%len(phases)],
				Error: "no image", LastEventAt: time.Unix(int64(i), 0),
			})
			w.Aggregate(all.DeploymentRef)
		})
	}
	phases("running", wire.PhasePending, wire.PhaseRunning)
	phases("failing", wire.PhaseFailed, wire.PhaseRunning)
}

// BenchmarkDeployment changes one of 1,000 Deployments with 10,000 devices, 500 of
// which it selects.
func BenchmarkDeployment(b *testing.B) {
	w := newWorld(10_000, 1000)
	d := w.deployment(5)
	run(b, "another score", func(i int) {
		d.Entry, d.Body = entryOf(d.DeploymentRef, i%2)
		w.SetDeployment(d)
	})
	run(b, "another site", func(i int) {
		d.Selector = w.deployment(i % 2 * perDevice).Selector
		w.SetDeployment(d)
	})
	run(b, "nothing changed", func(int) { w.SetDeployment(d) })
}

// BenchmarkMillion needs minutes and 4 GB: FLEET_BENCH_MILLION=1 go test -run XXX -bench Million
// -benchtime 10x ./pkg/assignment. 0.01 are 10,000 devices, the fewest.
func BenchmarkMillion(b *testing.B) {
	millions, err := strconv.ParseFloat(os.Getenv("FLEET_BENCH_MILLION"), 64)
	if err != nil {
		b.Skip("FLEET_BENCH_MILLION is not set")
	}
	before, began := measure.Heap(), measure.ProcessorTime(b)
	w := newWorld(int(millions*1_000_000), int(millions*10_000))
	b.Logf("built in %s of processor time, %d MB", measure.ProcessorTime(b)-began, (measure.Heap()-before)>>20)
	for i := range w.devices {
		d := w.deployment(i % w.sites() * perDevice)
		w.SetState(w.device(i).Name, wire.DeploymentState{DeploymentRef: d.DeploymentRef, Hash: d.Entry.Hash, Phase: wire.PhaseRunning})
	}
	memory := measure.Heap() - before
	b.Run("memory", func(b *testing.B) { b.ReportMetric(float64(memory)/1e6, "MB") })
	d := w.deployment(5)
	run(b, "a Deployment gets another site of 5000 devices", func(i int) {
		d.Selector = w.deployment((i + 1) % 2 * perDevice).Selector
		w.SetDeployment(d)
	})
	run(b, "a Deployment gets all devices or none", func(i int) {
		d.Selector = assignment.Selector{Nothing: i%2 == 1}
		w.SetDeployment(d)
	})
	one := w.device(17)
	run(b, "a label of one device that 2000 Deployments mention", func(i int) {
		one.Labels["ring"] = []string{"canary", "stable"}[i%2]
		w.SetDevice(one)
	})
	runtime.KeepAlive(w)
}
