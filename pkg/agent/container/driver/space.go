package driver

import (
	"context"
	"fmt"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
)

// Bounds of the space below which nothing is pulled: a share of the image store's file
// system, so that containers can go on writing, but neither nothing nor a waste.
const (
	floorShare         = 0.02
	minFloor, maxFloor = 64 << 20, 1 << 30
	// mostFloor is the largest share, of a small file system.
	mostFloor = 0.10
)

// floorOf is the space below which nothing is pulled.
func floorOf(size uint64) uint64 {
	floor := min(max(uint64(floorShare*float64(size)), minFloor), maxFloor)
	return min(floor, uint64(mostFloor*float64(size)))
}

// room asks for the space of the image store.
func (d *Driver) room(ctx context.Context) (container.Info, error) {
	info, err := d.runtime.Info(ctx)
	if err == nil {
		d.measure(&info)
	}
	return info, err
}

// measure corrects what the runtime says of the space: it counts what only root may use.
func (d *Driver) measure(info *container.Info) {
	if d.space == nil {
		return
	}
	if fs, err := d.space(); err == nil && fs.Size == info.StoreSize {
		info.StoreUsed = fs.Used
	}
}

func free(info *container.Info) uint64 { return info.StoreSize - min(info.StoreUsed, info.StoreSize) }

// roomFor reports why an image is not pulled for want of space. How large it is podman
// does not tell before it has it.
func (d *Driver) roomFor(ctx context.Context, image string) error {
	info, err := d.room(ctx)
	if err != nil || info.StoreSize == 0 || free(&info) >= floorOf(info.StoreSize) {
		return err
	}
	d.pruner.want()
	return fmt.Errorf("pulling image %q: %w: less than %s of the %s of the image store's file system is free, and nothing is pulled below that",
		image, container.ErrNoSpace, facts.Bytes(floorOf(info.StoreSize)), facts.Bytes(info.StoreSize))
}

// spaceSteps is how finely free space is told: figures that change with every attempt
// would make every attempt a report.
const spaceSteps = 20

// outOfSpace explains a pull that ended for want of space. What podman says of it names
// temporary files.
func (d *Driver) outOfSpace(ctx context.Context, image string, err error) error {
	if !strings.Contains(err.Error(), "no space left on device") {
		return err
	}
	d.pruner.want()
	info, unknown := d.room(ctx)
	if unknown != nil || info.StoreSize == 0 {
		return fmt.Errorf("pulling image %q: %w", image, container.ErrNoSpace)
	}
	step := max(info.StoreSize/spaceSteps, 1)
	return fmt.Errorf("pulling image %q: %w: it needs more than the image store has free, which is under %s of %s, or than /var/tmp has",
		image, container.ErrNoSpace, facts.Bytes((free(&info)/step+1)*step), facts.Bytes(info.StoreSize))
}
