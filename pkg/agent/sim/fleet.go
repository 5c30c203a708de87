package sim

import (
	"cmp"
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// maxEnrolling bounds how many devices enroll at once, as a rollout tool would.
const maxEnrolling = 16

// Fleet is a number of simulated devices.
type Fleet struct {
	Devices []*Device
	// AtOnce is how many devices enroll at once; zero for 16.
	AtOnce int
	// Admitted is called each time one more device has a certificate, by several goroutines;
	// it may be nil.
	Admitted func()
	enrolled atomic.Int64
}

// Enroll enrolls every device.
func (f *Fleet) Enroll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cmp.Or(f.AtOnce, maxEnrolling))
	for _, d := range f.Devices {
		g.Go(func() error {
			if err := d.Enroll(ctx); err != nil {
				return err
			}
			f.enrolled.Add(1)
			if f.Admitted != nil {
				f.Admitted()
			}
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

// Storm makes all devices lose their connections at once.
func (f *Fleet) Storm() {
	for _, d := range f.Devices {
		d.Drop()
	}
}

// Synced is how many devices the server has answered over their present connections.
func (f *Fleet) Synced() int {
	n := 0
	for _, d := range f.Devices {
		if d.IsSynced() {
			n++
		}
	}
	return n
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
