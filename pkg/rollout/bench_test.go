package rollout_test

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/rollout"
	"fleet.nationtech.io/fleet/test/measure"
)

// sizes are how many devices the benchmarks have. A million needs half a GB:
// FLEET_BENCH_MILLION=1 go test -run XXX -bench . ./pkg/rollout.
func sizes() []int {
	if millions, err := strconv.ParseFloat(os.Getenv("FLEET_BENCH_MILLION"), 64); err == nil {
		return []int{int(millions * 1_000_000)}
	}
	return []int{1000, 8000}
}

// crowd is a plan of many devices, which have r0 and are to have r1: a canary, a tenth, the rest.
type crowd struct {
	*rollout.Plan
	now   rollout.Moment
	names []string
}

func newCrowd(devices int, edit func(*rollout.Spec)) *crowd {
	spec := rollout.Default()
	spec.MinReady = 0
	spec.Batches = []rollout.Batch{{Limit: &rollout.Amount{N: 10}}, {Limit: &rollout.Amount{N: 10, Percent: true}}}
	if edit != nil {
		edit(&spec)
	}
	c := &crowd{now: rollout.Moment{Wall: start, Elapsed: time.Hour}}
	setup := rollout.Setup{Spec: spec, Target: rollout.Target{Revision: "r0"}, State: rollout.State{Revision: "r0", Released: "r0"}}
	var labels map[string]string
	for i := range devices {
		if i%3 == 0 {
			labels = map[string]string{"store": strconv.Itoa(i / 3), "ring": "stable"}
		}
		c.names = append(c.names, fmt.Sprintf("device-%07d", i))
		setup.Devices = append(setup.Devices, rollout.Facts{Name: c.names[i], Labels: labels, Matched: true, Connected: i%10 != 9, Given: "r0", Outcome: rollout.Ready})
	}
	c.Plan = rollout.New(c.now, setup)
	c.pass(time.Hour)
	c.Next(c.now)
	return c
}

func (c *crowd) pass(d time.Duration) {
	c.now = rollout.Moment{Wall: c.now.Wall.Add(d), Elapsed: c.now.Elapsed + d}
}

// rollOut gives everybody a revision, and returns how many passes that took.
func (c *crowd) rollOut(b *testing.B, revision string) (passes int) {
	c.SetTarget(c.now, rollout.Target{Revision: revision})
	for {
		step := c.Next(c.now)
		passes++
		if len(step.Orders) == 0 {
			if v := c.Verdict(c.now); v.Phase != rollout.Complete {
				b.Fatalf("it is %s: %s", v.Phase, v.Message)
			}
			return passes
		}
		c.pass(time.Second)
		for _, o := range step.Orders {
			c.Report(c.now, o.Device, revision, rollout.Ready)
		}
	}
}

// BenchmarkRollout is everything that a rollout asks of the core: passes, orders, reports.
func BenchmarkRollout(b *testing.B) {
	for _, size := range sizes() {
		for name, edit := range map[string]func(*rollout.Spec){
			"in groups": func(s *rollout.Spec) { s.GroupBy = []string{"store"} }, "in batches": nil,
		} {
			b.Run(fmt.Sprintf("%d devices %s", size, name), func(b *testing.B) {
				c, passes := newCrowd(size, edit), 0
				before := measure.ProcessorTime(b)
				for i := 0; b.Loop(); i++ {
					passes += c.rollOut(b, fmt.Sprint("r", i+1))
				}
				b.ReportMetric(float64(measure.ProcessorTime(b)-before)/float64(passes*size), "cpu-ns/device/pass")
				b.ReportMetric(float64(passes)/float64(b.N), "passes")
			})
		}
	}
}

// BenchmarkPass is a pass that looks at all devices and finds one that it gives something.
func BenchmarkPass(b *testing.B) {
	for _, size := range sizes() {
		b.Run(fmt.Sprintf("%d devices", size), func(b *testing.B) {
			c := newCrowd(size, func(s *rollout.Spec) { s.Batches, s.MaxUnavailable = nil, rollout.Amount{N: 1} })
			before := measure.ProcessorTime(b)
			for i := 0; b.Loop(); i++ {
				c.SetTarget(c.now, rollout.Target{Revision: "r" + strconv.Itoa(i+1)})
				c.Next(c.now)
			}
			b.ReportMetric(float64(measure.ProcessorTime(b)-before)/float64(b.N*size), "cpu-ns/device/pass")
		})
	}
}

// BenchmarkReport is a report in the middle of a rollout, and what may follow it.
func BenchmarkReport(b *testing.B) {
	for _, size := range sizes() {
		begin := func() (*crowd, []rollout.Order) {
			c := newCrowd(size, func(s *rollout.Spec) { s.Batches, s.MinReady = nil, time.Hour })
			c.SetTarget(c.now, rollout.Target{Revision: "r1"})
			return c, c.Next(c.now).Orders
		}
		outcomes := []rollout.Outcome{rollout.Ready, rollout.Pending}
		run(b, fmt.Sprintf("%d devices", size), func() func(int) {
			c, orders := begin()
			return func(i int) {
				c.Report(c.now, orders[i%len(orders)].Device, "r1", outcomes[i/len(orders)%2])
			}
		})
		run(b, fmt.Sprintf("%d devices and a pass", size), func() func(int) {
			c, orders := begin()
			return func(i int) {
				c.Report(c.now, orders[i%len(orders)].Device, "r1", outcomes[i/len(orders)%2])
				c.Next(c.now)
			}
		})
		run(b, fmt.Sprintf("%d devices and a verdict", size), func() func(int) {
			c, _ := begin()
			return func(int) { c.Verdict(c.now) }
		})
		run(b, fmt.Sprintf("%d devices and a pass that gives another one its place", size), func() func(int) {
			c := newCrowd(size, func(s *rollout.Spec) { s.Batches, s.MaxUnavailable = nil, rollout.Amount{N: 100} })
			var orders []rollout.Order
			return func(i int) {
				if len(orders) == 0 {
					c.SetTarget(c.now, rollout.Target{Revision: fmt.Sprint("r", i+1)})
					orders = c.Next(c.now).Orders
				}
				c.Report(c.now, orders[0].Device, orders[0].Revision, rollout.Ready)
				orders = append(orders[1:], c.Next(c.now).Orders...)
			}
		})
		run(b, fmt.Sprintf("%d devices and nothing happens", size), func() func(int) {
			c, _ := begin()
			return func(int) { c.Next(c.now) }
		})
	}
}

// run measures what f returns, also in processor time, which counts on a machine that is shared.
func run(b *testing.B, name string, f func() func(i int)) {
	b.Run(name, func(b *testing.B) { measure.CPU(b, f()) })
}

// BenchmarkMemory is what the plan holds in the middle of a rollout.
func BenchmarkMemory(b *testing.B) {
	for _, size := range sizes() {
		b.Run(fmt.Sprintf("%d devices", size), func(b *testing.B) {
			var c *crowd
			for b.Loop() {
				c = nil
				before := measure.Heap()
				c = newCrowd(size, nil)
				c.SetTarget(c.now, rollout.Target{Revision: "r1"})
				c.Next(c.now)
				b.ReportMetric(float64(measure.Heap()-before)/1e6, "MB")
			}
			runtime.KeepAlive(c)
		})
	}
}
