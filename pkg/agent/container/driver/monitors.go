package driver

import (
	"context"
	"errors"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Monitors ends what a runtime that was itself ended in the midst of a start left behind.
type Monitors interface {
	// EndMonitor ends the monitor of a container that does not run, and reports whether
	// there was one.
	EndMonitor(ctx context.Context, container string) (ended bool, err error)
}

// endMonitor reports whether something was left of a start of a container that podman was ended
// in the midst of, and is ended now. It holds the container's ports, and podman does not know of
// it. It must be asked only where podman says that the container never ran: what one that did
// leaves is on its way.
func (d *Driver) endMonitor(ctx context.Context, id string) bool {
	if d.monitors == nil {
		return false
	}
	ended, err := d.monitors.EndMonitor(ctx, id)
	if err != nil {
		d.log.Debug("nobody says whether something is left of a start", "container", id, "error", err)
	}
	if ended {
		d.log.Warn("ended what was left of a start that podman did not survive", "container", id)
	}
	return ended
}

// startOrOutdated starts a container. One whose ports are held by what is left of its own earlier start
// can be started no more, since the OCI runtime has it already.
func (d *Driver) startOrOutdated(ctx context.Context, id string) error {
	err := d.runtime.Start(ctx, id)
	if errors.Is(err, container.ErrPortInUse) && d.endMonitor(ctx, id) {
		err = fmt.Errorf("%w: podman was ended in the midst of an earlier start: %w", container.ErrOutdated, err)
	}
	return err
}
