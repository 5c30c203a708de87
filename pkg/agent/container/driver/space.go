package driver

import (
	"context"
	"fmt"
	"strings"
	"time"

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

// infoFresh is how long what the runtime says of itself may be taken for what it is, but
// for the space. Podman starts a dozen programs to find it out, which takes ten times as
// long as to look at its containers.
const infoFresh = 10 * time.Minute

// recent is what the runtime said of itself lately, with the space that there is now.
func (d *Driver) recent(ctx context.Context) (container.Info, error) {
	d.mu.Lock()
	info, err, at := d.info, d.infoErr, d.infoAt
	d.mu.Unlock()
	if err == nil && !at.IsZero() && time.Since(at) < infoFresh && d.measure(&info) {
		return info, nil
	}
	info, err = d.room(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.infoAt = time.Now()
	return info, err
}

// room asks for the space of the image store.
func (d *Driver) room(ctx context.Context) (container.Info, error) {
	info, err := d.runtime.Info(ctx)
	if err == nil {
		d.measure(&info)
	}
	return info, err
}

// measure corrects what the runtime says of the space, which counts what only root may
// use, and reports whether the agent can see that space.
func (d *Driver) measure(info *container.Info) bool {
	if d.space == nil {
		return false
	}
	fs, err := d.space()
	if err != nil || fs.Size != info.StoreSize {
		return false
	}
	info.StoreUsed = fs.Used
	return true
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
	return fmt.Errorf("pulling image %q: %w: less than %s of the %s of the image store's file system is free, and nothing is pulled below that: remove what is not needed, or give it more room",
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
	return fmt.Errorf("pulling image %q: %w: it needs more than the image store has free, which is under %s of %s, or than /var/tmp has: remove what is not needed, or give it more room",
		image, container.ErrNoSpace, facts.Bytes((free(&info)/step+1)*step), facts.Bytes(info.StoreSize))
}
