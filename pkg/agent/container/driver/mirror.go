package driver

import (
	"context"
	"errors"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/facts"
)

// Mirror fetches images for the runtime, which it lets ask for them.
type Mirror interface {
	// Serve says what names the images that are wanted; it is called once, before Begin.
	Serve(wanted func() []string)
	// Begin begins a pull, whose image the device has a login for unless that is nil. room
	// says why there is no room for so many bytes more. It returns nil for an image that the
	// runtime has to pull by itself.
	Begin(ctx context.Context, image string, login *container.Login, room func(ctx context.Context, bytes int64) error) (Transfer, error)
}

// Transfer is a pull by a Mirror.
type Transfer interface {
	// Login is what the runtime needs to ask the mirror.
	Login() container.Login
	// Progress is how many bytes came, of how many; zero while that is not known.
	Progress() (brought, total int64)
	// Problem is why something was not had; nil for nothing. It has one line.
	Problem() error
	// End ends it; done: the runtime has the image.
	End(done bool)
}

// fetch has the runtime pull an image, by way of the mirror if there is one. What goes wrong
// with a mirror is no error: the runtime goes on to the registry itself.
func (d *Driver) fetch(ctx context.Context, image string, login *container.Login, progress func(func() (brought, total int64))) error {
	var logins []container.Login
	if login != nil {
		logins = append(logins, *login)
	}
	if d.mirror == nil {
		return d.runtime.Pull(ctx, image, logins...)
	}
	transfer, err := d.mirror.Begin(ctx, image, login, d.roomForLayer)
	if err != nil {
		d.log.Warn("an image is pulled without the agent's mirror: no progress, no limits, and an interrupted layer begins anew", "image", image, "error", err)
		return d.runtime.Pull(ctx, image, logins...)
	}
	if transfer == nil {
		return d.runtime.Pull(ctx, image, logins...)
	}
	progress(transfer.Progress)
	err = d.runtime.Pull(ctx, image, append(logins, transfer.Login())...)
	transfer.End(err == nil)
	if problem := transfer.Problem(); err != nil && problem != nil && ctx.Err() == nil && !errors.Is(err, container.ErrUnavailable) {
		d.log.Debug("what podman says of a pull", "image", image, "error", err)
		return fmt.Errorf("pulling image %q: %w: %w", image, container.ErrImage, problem)
	}
	return err
}

// unpacked is how many times its size a layer takes at least while it is pulled: as it came,
// and unpacked.
const unpacked = 2

// roomForLayer reports why a layer is not fetched for want of space.
func (d *Driver) roomForLayer(ctx context.Context, bytes int64) error {
	info, err := d.recent(ctx)
	if err != nil || info.StoreSize == 0 {
		return nil //nolint:nilerr // podman will say
	}
	need := uint64(max(0, bytes)) * unpacked
	if free(&info) >= need+floorOf(info.StoreSize) {
		return nil
	}
	d.pruner.want()
	return fmt.Errorf("%w: a layer of %s needs at least %s, and %s of the %s of the image store's file system are free, of which %s stay free: remove what is not needed, or give it more room",
		container.ErrNoSpace, facts.Bytes(uint64(max(0, bytes))), facts.Bytes(need), facts.Bytes(free(&info)), facts.Bytes(info.StoreSize), facts.Bytes(floorOf(info.StoreSize)))
}
