package assignment_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/wire"
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

// BenchmarkDevice changes one of 10,000 devices that 1,000 Deployments select.
func BenchmarkDevice(b *testing.B) {
	w := newWorld(10_000, 1000)
	w.everywhere(100)
	change := func(key string, values ...string) func(*testing.B) {
		return func(b *testing.B) {
			d := w.device(17)
			for i := 0; b.Loop(); i++ {
				d.Labels[key] = values[i%len(values)]
				w.SetDevice(d)
			}
		}
	}
	b.Run("nothing changed", change("ring", "stable"))
	b.Run("a label that no Deployment mentions", change("owner", "a", "b"))
	b.Run("a label that 300 Deployments mention", change("ring", "canary", "stable"))
	b.Run("a label that decides about 100 of 1000 Deployments", change("ring", "broken", "stable"))
	b.Run("another site with other 50 Deployments", change("site", "site-3", "site-4"))
	b.Run("comes and goes", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			d := w.device(1_000_000 + i%100)
			w.SetDevice(d)
			w.RemoveDevice(d.Name)
		}
	})
	b.Run("disconnects and connects", func(b *testing.B) {
		d := w.device(17)
		for b.Loop() {
			d.Offline = !d.Offline
			w.SetDevice(d)
		}
	})
}

// BenchmarkEverywhere shows what Deployments without a positive requirement cost a
// device whose labels change and one that is new.
func BenchmarkEverywhere(b *testing.B) {
	for _, n := range []int{0, 1000, 10_000} {
		w := newWorld(100, perDevice)
		w.everywhere(n)
		b.Run(fmt.Sprintf("%d, a label changes", n), func(b *testing.B) {
			d := w.device(17)
			for i := 0; b.Loop(); i++ {
				d.Labels["owner"] = []string{"a", "b"}[i%2]
				w.SetDevice(d)
			}
		})
		b.Run(fmt.Sprintf("%d, a new device", n), func(b *testing.B) {
			for b.Loop() {
				d := w.device(1000)
				w.SetDevice(d)
				w.RemoveDevice(d.Name)
			}
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
	phases := func(phases ...wire.Phase) func(*testing.B) {
		return func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				w.SetState(w.device(i%w.devices).Name, wire.DeploymentState{
					DeploymentRef: all.DeploymentRef, Hash: all.Entry.Hash, Phase: phases[i/w.devices%len(phases)],
					Error: "no image", LastEventAt: time.Unix(int64(i), 0),
				})
				w.Aggregate(all.DeploymentRef)
			}
		}
	}
	b.Run("running", phases(wire.PhasePending, wire.PhaseRunning))
	b.Run("failing", phases(wire.PhaseFailed, wire.PhaseRunning))
}

// BenchmarkDeployment changes one of 1,000 Deployments with 10,000 devices.
func BenchmarkDeployment(b *testing.B) {
	w := newWorld(10_000, 1000)
	b.Run("another score", func(b *testing.B) {
		d := w.deployment(5)
		for i := 0; b.Loop(); i++ {
			d.Entry, d.Body = entryOf(d.DeploymentRef, i%2)
			w.SetDeployment(d)
		}
	})
	b.Run("another site", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			d := w.deployment(5)
			d.Selector = w.deployment(i % 2 * perDevice).Selector
			w.SetDeployment(d)
		}
	})
	b.Run("nothing changed", func(b *testing.B) {
		d := w.deployment(5)
		for b.Loop() {
			w.SetDeployment(d)
		}
	})
}

// BenchmarkMillion needs minutes and 2 GB: FLEET_BENCH_MILLION=1 go test -bench Million
// -benchtime 20x ./pkg/assignment.
func BenchmarkMillion(b *testing.B) {
	if os.Getenv("FLEET_BENCH_MILLION") == "" {
		b.Skip("FLEET_BENCH_MILLION is not set")
	}
	before := heap()
	start := time.Now()
	w := newWorld(1_000_000, 10_000)
	built := time.Since(start)
	held := heap() - before
	b.Logf("built in %s, %d MB", built.Round(time.Second), held>>20)
	start = time.Now()
	for i := range w.devices {
		d := w.deployment(i % w.sites() * perDevice)
		w.SetState(w.device(i).Name, wire.DeploymentState{DeploymentRef: d.DeploymentRef, Hash: d.Entry.Hash, Phase: wire.PhaseRunning})
	}
	b.Logf("a report of each device in %s, %d MB", time.Since(start).Round(time.Second), (heap()-before)>>20)
	b.Run("another site of 5000 devices", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			d := w.deployment(5)
			d.Selector = w.deployment((i + 1) % 2 * perDevice).Selector
			w.SetDeployment(d)
		}
	})
	b.Run("all devices and none", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			d := w.deployment(5)
			d.Selector = assignment.Selector{Nothing: i%2 == 1}
			w.SetDeployment(d)
		}
	})
	b.Run("a label of one device", func(b *testing.B) {
		d := w.device(17)
		for i := 0; b.Loop(); i++ {
			d.Labels["ring"] = []string{"canary", "stable"}[i%2]
			w.SetDevice(d)
		}
	})
	runtime.KeepAlive(w)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
