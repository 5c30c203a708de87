//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/test/load/fleetload"
	"fleet.nationtech.io/fleet/test/process"
)

// A slow medium takes slowFlush for each flush, like an SD card; slowDevices report
// to a server on it.
const (
	slowFlush   = 10 * time.Millisecond
	slowDevices = 1000
	// probeInterval is how often the API is asked, meanwhile.
	probeInterval = 50 * time.Millisecond
	mostSlow      = 500 * time.Millisecond
	mostFlushes   = 20
)

// slowMedium measures how long the API takes while devices enroll and report to a
// server on a slow medium, and how often it flushes once they have.
func (b *bench) slowMedium(ctx context.Context) error {
	return withDir(func(dir string) error {
		m := medium{calls: filepath.Join(dir, "flushes")}
		s, err := process.StartServer(ctx, process.Config{
			Binary: filepath.Join(b.bin, "fleet-server"), DataDir: filepath.Join(dir, "data"), Command: m.command,
		})
		if err != nil {
			return err
		}
		api, err := fleetload.NewClient(s)
		if err != nil {
			return errors.Join(err, s.Stop())
		}
		var p *probe
		ask := func() { p = startProbe(ctx, api) }
		answered := func(during string) error {
			reads, writes, err := p.end()
			if err == nil {
				b.addProbe("reads while they "+during, reads)
				b.addProbe("writes while they "+during, writes)
			}
			return err
		}
		ask()
		load := fleetload.Config{
			Groups:   groups(slowDevices),
			Progress: func(line string) { fmt.Fprintln(b.out, line) },
			Enrolled: func() error {
				err := answered("enroll")
				ask()
				return err
			},
			Labelled: func() error { return answered("connect and report") },
			Settled:  func(ctx context.Context) error { return b.flushes(ctx, m) },
		}
		_, err = load.Run(ctx, s)
		_, _, _ = p.end() // it has said before what it found
		return errors.Join(err, s.Stop())
	})
}

var ofSlowMedium = fmt.Sprintf("%d simulated devices, %d ms for each flush of the medium: ", slowDevices, slowFlush.Milliseconds())

func (b *bench) addProbe(what string, took []time.Duration) {
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	b.report.add(ofSlowMedium+"99th percentile of the API's "+what,
		fmt.Sprintf("%d ms (median %d ms)", p99.Milliseconds(), median(took).Milliseconds()), fmt.Sprintf("≤ %d ms", mostSlow.Milliseconds()), p99 <= mostSlow)
}

// flushes measures how often a server flushes while nothing changes.
func (b *bench) flushes(ctx context.Context, m medium) error {
	before, after, err := whileIdle(ctx, b, settleTime, m.flushes)
	if err != nil {
		return err
	}
	perSecond := float64(after-before) / b.idle.Seconds()
	b.report.add(ofSlowMedium+"flushes while nothing changes", fmt.Sprintf("%.1f a second", perSecond), fmt.Sprintf("≤ %d a second", mostFlushes), perSecond <= mostFlushes)
	return nil
}

// medium delays and counts the flushes of a process.
type medium struct {
	// calls is the file with a line for each.
	calls string
}

// command is a process.Command. The program keeps the process that it has without.
func (m medium) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	delay := fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", slowFlush.Microseconds())
	return exec.CommandContext(ctx, "strace", append([]string{
		"-D", "-f", "-qq", "-e", "signal=none", "--seccomp-bpf", "-o", m.calls, "-e", "trace=fsync,fdatasync", "-e", delay, "--", name,
	}, args...)...)
}

// flushes is how many there were.
func (m medium) flushes() (int, error) {
	data, err := os.ReadFile(m.calls)
	return bytes.Count(data, []byte("(DELAYED)")), err
}

// probe reads and writes one object again and again.
type probe struct {
	stop func()
	done sync.WaitGroup

	reads, writes []time.Duration // of the goroutine, until it ended
	err           error
}

func startProbe(ctx context.Context, api *client.Client) *probe {
	running, stop := context.WithCancel(ctx)
	p := &probe{stop: stop}
	p.done.Go(func() {
		if err := p.run(running, api); err != nil && running.Err() == nil {
			p.err = fmt.Errorf("asking the API beside the devices: %w", err)
		}
	})
	return p
}

// end ends the probe; it may be called again.
func (p *probe) end() (reads, writes []time.Duration, err error) {
	p.stop()
	p.done.Wait()
	if p.err == nil && len(p.writes) == 0 {
		p.err = errors.New("the API was not asked")
	}
	return p.reads, p.writes, p.err
}

func (p *probe) run(ctx context.Context, api *client.Client) error {
	const name = "probe"
	_, err := api.Devices().Create(ctx, &v1alpha1.Device{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for i := 0; ; i++ {
		begin := time.Now()
		if _, err := api.Devices().Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		read := time.Now()
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"probe":"%d"}}}`, i)
		if _, err := api.Devices().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
		p.reads, p.writes = append(p.reads, read.Sub(begin)), append(p.writes, time.Since(read))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
