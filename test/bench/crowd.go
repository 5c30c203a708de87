//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
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
	// crowdDevices are connected while lists are asked for, and when the server starts
	// again; registered is how many Devices there are in another store.
	crowdDevices, registered = 4000, 10_000
	// listInterval is how often a client lists all Devices, listTime for how long.
	listInterval, listTime = 2 * time.Second, 30 * time.Second
	mostListed, mostStorm  = 600e6, 700e6
	longestStorm           = time.Minute
	mostReady              = 600 * time.Millisecond
)

// crowd measures what many devices cost at once: in lists, and when all come back.
func (b *bench) crowd(ctx context.Context) error {
	return withDir(func(dir string) error {
		s, err := process.StartServer(ctx, process.Config{Binary: filepath.Join(b.bin, "fleet-server"), DataDir: dir})
		if err != nil {
			return err
		}
		load := fleetload.Config{
			Groups: groups(crowdDevices), Progress: func(line string) { fmt.Fprintln(b.out, line) },
			Settled: func(ctx context.Context) (err error) {
				if err := b.lists(ctx, s); err != nil {
					return err
				}
				s, err = b.storm(ctx, s)
				return err
			},
		}
		_, err = load.Run(ctx, s)
		return errors.Join(err, s.Stop())
	})
}

// lists lists all Devices in one piece, again and again.
func (b *bench) lists(ctx context.Context, s *process.Server) error {
	api, err := fleetload.NewClient(s)
	if err != nil {
		return err
	}
	for end := time.Now().Add(listTime); time.Now().Before(end); {
		if _, err := api.Devices().List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
		if err := pause(ctx, listInterval); err != nil {
			return err
		}
	}
	peak, err := process.PeakRSS(s.PID())
	b.report.add(fmt.Sprintf("%d devices enrolled, and all listed in one piece every %s: the most memory", crowdDevices, listInterval),
		fmt.Sprintf("%d MB", peak/1e6), fmt.Sprintf("≤ %.0f MB", mostListed/1e6), peak <= mostListed)
	return err
}

// storm restarts a server whose devices all come back at once.
func (b *bench) storm(ctx context.Context, s *process.Server) (*process.Server, error) {
	if err := s.Stop(); err != nil {
		return s, err
	}
	again, err := s.Restart(ctx)
	if err != nil {
		return s, err
	}
	begin := time.Now()
	for {
		connected, answered, err := backAgain(ctx, again)
		if err != nil {
			return again, err
		}
		if connected >= crowdDevices && answered >= crowdDevices {
			break
		}
		if time.Since(begin) > 10*longestStorm {
			return again, fmt.Errorf("%d of %d devices are connected and %d answered after %s", connected, crowdDevices, answered, time.Since(begin))
		}
		if err := pause(ctx, time.Second/2); err != nil {
			return again, err
		}
	}
	took := time.Since(begin)
	peak, err := process.PeakRSS(again.PID())
	of := fmt.Sprintf("%d devices come back after a restart of the server: ", crowdDevices)
	b.report.add(of+"until all have asked for their manifest", seconds(took), "≤ "+seconds(longestStorm), took <= longestStorm)
	b.report.add(of+"the most memory", fmt.Sprintf("%d MB", peak/1e6), fmt.Sprintf("≤ %.0f MB", mostStorm/1e6), peak <= mostStorm)
	return again, err
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
	return withDir(func(dir string) error {
		s, err := process.StartServer(ctx, process.Config{Binary: filepath.Join(b.bin, "fleet-server"), DataDir: dir})
		if err != nil {
			return err
		}
		if err := register(ctx, s); err != nil {
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
		b.report.add(fmt.Sprintf("ready after a restart with %d Devices", registered), seconds(ready), "≤ "+seconds(mostReady), ready <= mostReady)
		return s.Stop()
	})
}

// register makes Devices that have never connected.
func register(ctx context.Context, s *process.Server) error {
	api, err := fleetload.NewClient(s)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range registered {
		group.Go(func() error {
			_, err := api.Devices().Create(ctx, &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("device-%d", i), Labels: map[string]string{"site": fmt.Sprint(i % 100)}}}, metav1.CreateOptions{})
			return err
		})
	}
	return group.Wait()
}
