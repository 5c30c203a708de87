// Package fleetload puts a load of simulated devices on a server and looks at
// the aggregates of its Deployments. The load test and the benchmark use it.
package fleetload

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/test/process"
)

// Config says how large the load is.
type Config struct {
	// Groups are the numbers of devices that each Deployment matches.
	Groups []int
	// Watch is how long the aggregates have to stay exact.
	Watch time.Duration
	// Enrolled is called when every device has a certificate, before the first one
	// connects, and Labelled when every one has connected and has its labels; they may
	// be nil.
	Enrolled, Labelled func() error
	// Settled is called at the end, while the devices are connected; it may be nil.
	Settled func(context.Context) error
	// Progress is called with a line at each step; it may be nil.
	Progress func(string)
}

// Devices is the number of devices in all groups.
func (c Config) Devices() int {
	n := 0
	for _, size := range c.Groups {
		n += size
	}
	return n
}

// Result is what was measured.
type Result struct {
	// Enroll is the time until every device had a certificate, Connect the time
	// from then until the API showed every device's labels, to two seconds, Exact the time from
	// the first Deployment's creation until every aggregate was exact.
	Enroll, Connect, Exact time.Duration
	// FirstRate and LastRate are how many of the first and of the last Part devices got a
	// certificate each second.
	FirstRate, LastRate float64
	Part                int
	// RSS is the server's resident memory at the end, in bytes.
	RSS int64
}

// Run puts the load on a server that has no Deployments of the same names.
func (c Config) Run(ctx context.Context, server *process.Server) (Result, error) {
	var r Result
	fleet, err := c.fleet(ctx, server)
	if err != nil {
		return r, err
	}
	p := startPace()
	fleet.Admitted = p.one
	begin := time.Now()
	if err := fleet.Enroll(ctx); err != nil {
		return r, err
	}
	r.Enroll = time.Since(begin)
	r.Part = min(mostOfPart, c.Devices()/2)
	r.FirstRate, r.LastRate = p.rates(r.Part)
	c.printf("%d devices enrolled in %s, the first %d at %.0f and the last at %.0f a second", c.Devices(), r.Enroll.Round(time.Millisecond), r.Part, r.FirstRate, r.LastRate)
	if err := call(c.Enrolled); err != nil {
		return r, err
	}

	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- fleet.Run(running) }()
	defer func() {
		stop()
		<-done
	}()
	begin = time.Now()
	api, err := NewClient(server)
	if err != nil {
		return r, err
	}
	if err := c.labelled(ctx, api); err != nil {
		return r, fmt.Errorf("waiting for the devices' labels: %w", err)
	}
	r.Connect = time.Since(begin)
	c.printf("%d devices connected and labelled in %s", c.Devices(), r.Connect.Round(time.Millisecond))
	if err := call(c.Labelled); err != nil {
		return r, err
	}
	if err := c.quiet(ctx, api); err != nil {
		return r, fmt.Errorf("waiting for the server to have nothing to do: %w", err)
	}
	err = c.deploy(ctx, server, api, &r)
	if err == nil && c.Settled != nil {
		err = c.Settled(ctx)
	}
	return r, err
}

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

// fleet makes the devices. One token lets them all in and allows them to label
// themselves into their group.
func (c Config) fleet(ctx context.Context, server *process.Server) (*sim.Fleet, error) {
	token, err := server.Token(ctx, "--pre-approve", "--uses", strconv.Itoa(c.Devices()), "--allow-label", "group")
	if err != nil {
		return nil, err
	}
	fleet := &sim.Fleet{}
	for group, size := range c.Groups {
		for i := range size {
			d, err := sim.New(sim.Config{
				Device: fmt.Sprintf("sim-%d-%d", group, i), Server: server.EnrollURL, Token: token,
				Labels: map[string]string{"group": groupName(group)}, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				return nil, err
			}
			fleet.Devices = append(fleet.Devices, d)
		}
	}
	return fleet, nil
}

func (c Config) printf(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(fmt.Sprintf(format, args...))
	}
}

func groupName(i int) string { return fmt.Sprintf("group-%d", i) }
