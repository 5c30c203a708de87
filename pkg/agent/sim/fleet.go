package sim

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// maxEnrolling bounds how many devices enroll at once, as a rollout tool would.
const maxEnrolling = 16

// Fleet is a number of simulated devices.
type Fleet struct {
	Devices  []*Device
	enrolled atomic.Int64
}

// Enroll enrolls every device.
func (f *Fleet) Enroll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxEnrolling)
	for _, d := range f.Devices {
		g.Go(func() error {
			if err := d.Enroll(ctx); err != nil {
				return err
			}
			f.enrolled.Add(1)
			return nil
		})
	}
	return g.Wait()
}

// Run runs every device until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range f.Devices {
		g.Go(func() error { return d.Run(ctx) })
	}
	return g.Wait()
}

// Enrolled is how many devices have a certificate.
func (f *Fleet) Enrolled() int { return int(f.enrolled.Load()) }

// Connected is how many devices have a manifest.
func (f *Fleet) Connected() int {
	n := 0
	for _, d := range f.Devices {
		if m := d.Manifest(); !m.IsZero() {
			n++
		}
	}
	return n
}

// Reports is how many reports the devices have sent.
func (f *Fleet) Reports() int {
	n := 0
	for _, d := range f.Devices {
		n += d.Reports()
	}
	return n
}
