//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/test/load/fleetload"
	"fleet.nationtech.io/fleet/test/process"
)

const (
	// listInterval is how often a client lists all Devices, listTime for how long.
	listInterval, listTime = 2 * time.Second, 30 * time.Second
	mostListed, mostStorm  = 600e6, 700e6
	longestStorm           = time.Minute
	mostReady              = 600 * time.Millisecond
)

// crowd measures what many devices cost at once: in lists, and when all come back.
func (b *bench) crowd(ctx context.Context) error {
	return b.eachTree(ctx, "a crowd", b.crowded, func(t tree) error {
		return withDir(func(dir string) error { return b.crowdOn(ctx, dir, t) })
	})
}

func (b *bench) crowdOn(ctx context.Context, dir string, t tree) error {
	l := newLimit(mostStorm)
	s, err := process.StartServer(ctx, process.Config{Binary: t.server(), DataDir: dir, Command: l.command})
	if err != nil {
		return errors.Join(err, l.remove())
	}
	load := fleetload.Config{
		Groups: groups(b.crowded), Progress: func(line string) { fmt.Fprintln(b.out, line) },
		Settled: func(ctx context.Context) (err error) {
			if err := b.lists(ctx, t, s); err != nil {
				return err
			}
			s, err = b.storm(ctx, t, s, l)
			return err
		},
	}
	_, err = load.Run(ctx, s)
	return errors.Join(err, s.Stop(), l.remove())
}

// lists lists all Devices in one piece, again and again.
func (b *bench) lists(ctx context.Context, t tree, s *process.Server) error {
	api, err := fleetload.NewClient(s)
	if err != nil {
		return err
	}
	peak, err := process.PeakRSS(s.PID())
	if err != nil {
		return err
	}
	b.addOf(t, fmt.Sprintf("%d devices enroll, connect and get a Deployment: the most memory", b.crowded), megabytes(peak), "", true)
	since := ""
	if err := process.ResetPeakRSS(s.PID()); err != nil {
		since = " since the start of the server"
	}
	for end := time.Now().Add(listTime); time.Now().Before(end); {
		if _, err := api.Devices().List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
		if err := pause(ctx, listInterval); err != nil {
			return err
		}
	}
	peak, err = process.PeakRSS(s.PID())
	b.addOf(t, fmt.Sprintf("%d devices are connected, and all are listed in one piece every %s: the most memory%s", b.crowded, listInterval, since),
		megabytes(peak), fmt.Sprintf("≤ %.0f MB", mostListed/1e6), peak <= mostListed)
	return err
}

// storm restarts a server whose devices all come back at once, with a limit of memory. One
// that is killed starts again without.
func (b *bench) storm(ctx context.Context, t tree, s *process.Server, l *limit) (*process.Server, error) {
	if err := s.Stop(); err != nil {
		return s, err
	}
	l.isSet = true
	again, took, failed := b.comeBack(ctx, s)
	killed, err := l.killed()
	if err != nil {
		return again, errors.Join(failed, err)
	}
	of := fmt.Sprintf("%d devices come back after a restart of the server with %s: ", b.crowded, megabytes(l.bytes))
	killing := func(answer string) {
		b.addOf(t, of+"the kernel kills it", fmt.Sprintf("%s (%s)", answer, l.words()), "no", answer == "no")
	}
	if killed > 0 {
		fmt.Fprintf(b.out, "killed: %v\n", failed)
		killing("yes")
		l.isSet = false
		unlimited, err := s.Restart(ctx)
		if err != nil {
			return s, err
		}
		return unlimited, nil
	}
	if failed != nil {
		return again, failed
	}
	peak, err := process.PeakRSS(again.PID())
	b.addOf(t, of+"until all have asked for their manifest", seconds(took), "≤ "+seconds(longestStorm), took <= longestStorm)
	b.addOf(t, of+"the most memory", megabytes(peak), fmt.Sprintf("≤ %.0f MB", mostStorm/1e6), peak <= mostStorm)
	killing("no")
	return again, err
}

// comeBack starts a server again and waits until all devices have their answer. It returns the
// server that was there when no other is.
func (b *bench) comeBack(ctx context.Context, s *process.Server) (*process.Server, time.Duration, error) {
	again, err := s.Restart(ctx)
	if err != nil {
		return s, 0, err
	}
	begin := time.Now()
	for {
		connected, answered, err := backAgain(ctx, again)
		if err != nil {
			return again, 0, err
		}
		if connected >= b.crowded && answered >= b.crowded {
			return again, time.Since(begin), nil
		}
		if time.Since(begin) > 10*longestStorm {
			return again, 0, fmt.Errorf("%d of %d devices are connected and %d answered after %s", connected, b.crowded, answered, time.Since(begin))
		}
		if err := pause(ctx, time.Second/2); err != nil {
			return again, 0, err
		}
	}
}

// backAgain is how many devices are connected, and how many of their requests for a
// manifest were answered.
func backAgain(ctx context.Context, s *process.Server) (connected, answered int, err error) {
	metrics, err := s.Kubectl(ctx, "get", "--raw", "/metrics")
	for line := range strings.Lines(metrics) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "fleet_devices_connected":
			connected = int(n)
		case `fleet_device_requests_total{kind="snapshot",result="ok"}`:
			answered = int(n)
		}
	}
	return connected, answered, err
}

// readyWithMany measures the start of a server that has many Devices in its store.
func (b *bench) readyWithMany(ctx context.Context) error {
	return b.eachTree(ctx, "many registered ones", 0, func(t tree) error {
		return withDir(func(dir string) error { return b.readyOn(ctx, dir, t) })
	})
}

func (b *bench) readyOn(ctx context.Context, dir string, t tree) error {
	s, err := process.StartServer(ctx, process.Config{Binary: t.server(), DataDir: dir})
	if err != nil {
		return err
	}
	if err := register(ctx, s, b.registered); err != nil {
		return errors.Join(err, s.Stop())
	}
	var times []time.Duration
	for range b.repeat {
		if err := s.Stop(); err != nil {
			return err
		}
		if s, err = s.Restart(ctx); err != nil {
			return err
		}
		times = append(times, s.ReadyAfter)
	}
	ready := median(times)
	b.addOf(t, fmt.Sprintf("ready after a restart with %d Devices", b.registered), seconds(ready), "≤ "+seconds(mostReady), ready <= mostReady)
	return s.Stop()
}

// register makes Devices that have never connected.
func register(ctx context.Context, s *process.Server, devices int) error {
	api, err := fleetload.NewClient(s)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range devices {
		group.Go(func() error {
			_, err := api.Devices().Create(ctx, &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("device-%d", i), Labels: map[string]string{"site": fmt.Sprint(i % 100)}}}, metav1.CreateOptions{})
			return err
		})
	}
	return group.Wait()
}
