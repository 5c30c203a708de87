package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// devicePause is the time between two looks for devices that are waited for.
const devicePause = 2 * time.Second

// waits remembers which services wait for devices.
type waits struct {
	mu    sync.Mutex // guards byRef
	byRef map[wire.DeploymentRef][]waiting
	// begin gets a value when somebody waits.
	begin chan struct{}
}

// waiting is a service that waits.
type waiting struct {
	service string
	// mount is the device, why is what to say.
	mount container.Mount
	why   string
}

func newWaits() *waits {
	return &waits{byRef: map[wire.DeploymentRef][]waiting{}, begin: make(chan struct{}, 1)}
}

// set notes who waits in a Deployment; nobody forgets it.
func (w *waits) set(ref wire.DeploymentRef, list []waiting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byRef[ref] = list; len(list) == 0 {
		delete(w.byRef, ref)
		return
	}
	select {
	case w.begin <- struct{}{}:
	default: // it has one already
	}
}

// of returns a workload with what its services wait for.
func (w *waits) of(asked *plan.Workload) *plan.Workload {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.byRef[asked.Ref]
	if len(list) == 0 {
		return asked
	}
	with := *asked
	with.Waiting = make(map[string]string, len(list))
	for _, each := range list {
		with.Waiting[each.service] = each.why
	}
	return &with
}

// all lists the devices that are waited for, with who waits.
func (w *waits) all() map[wire.DeploymentRef][]container.Mount {
	w.mu.Lock()
	defer w.mu.Unlock()
	mounts := make(map[wire.DeploymentRef][]container.Mount, len(w.byRef))
	for ref, list := range w.byRef {
		for _, each := range list {
			mounts[ref] = append(mounts[ref], each.mount)
		}
	}
	return mounts
}

// absent finds the services whose devices are not there, and returns the workload without
// the mounts of these.
func (m *mounts) absent(w *plan.Workload) (present *plan.Workload, list []waiting) {
	var devices []container.Mount
	for _, s := range w.Services {
		devices = append(devices, devicesOf(&s)...)
	}
	if len(devices) == 0 {
		return w, nil
	}
	sight := m.rules().Sight(devices)
	with := *w
	with.Services = slices.Clone(w.Services)
	for i := range with.Services {
		s := &with.Services[i]
		for _, d := range devicesOf(s) {
			if err := sight.Check([]container.Mount{d}); errors.Is(err, bind.ErrAbsent) {
				list = append(list, waiting{s.Service, d, fmt.Sprintf("%s: %s is not there: the service starts once it is", d.Field, d.HostPath)})
				s.Mounts = slices.DeleteFunc(slices.Clone(s.Mounts), func(m container.Mount) bool { return m.Device })
				break
			}
		}
	}
	return &with, list
}

func devicesOf(s *container.Spec) []container.Mount {
	return slices.DeleteFunc(slices.Clone(s.Mounts), func(m container.Mount) bool { return !m.Device })
}

// lookForDevices tells about devices that came while somebody waits for them, until ctx ends.
// The kernel would tell of them, but not of what a rule of udev then names and lets be used.
func (d *Driver) lookForDevices(ctx context.Context, changed func(wire.DeploymentRef)) {
	var pause <-chan time.Time // nil while nobody waits
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.waits.begin:
		case <-pause:
			for ref, mounts := range d.waits.all() {
				if _, err := d.mounts.allows(mounts); !errors.Is(err, bind.ErrAbsent) {
					changed(ref)
				}
			}
		}
		if pause = nil; len(d.waits.all()) > 0 {
			pause = time.After(devicePause)
		}
	}
}
