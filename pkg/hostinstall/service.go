package hostinstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// askEvery is how often systemd is asked whether a service is ready.
const askEvery = 500 * time.Millisecond

// service is a unit of systemd.
type service struct {
	host       Host
	name, unit string
	// booted: systemd runs.
	booted bool
}

func (s *service) systemctl(ctx context.Context, args ...string) error {
	return s.host.Run(ctx, append([]string{"systemctl"}, args...)...)
}

// reload makes systemd read units again.
func (s *service) reload(ctx context.Context) error {
	if !s.booted {
		return nil
	}
	return s.systemctl(ctx, "daemon-reload")
}

// state is what systemd says of the unit: is-active or is-enabled. It says so
// with an exit status too, which is no error here.
func (s *service) state(ctx context.Context, question string) string {
	out, err := s.host.Query(ctx, "systemctl", question, s.unit)
	if err != nil && out == "" {
		return "unknown"
	}
	return strings.TrimSpace(out)
}

func (s *service) active(ctx context.Context) bool {
	return s.booted && s.state(ctx, "is-active") == "active"
}

// start makes the service run with what is installed now, and waits until it is
// ready.
func (in *Installer) start(ctx context.Context, o Options) error {
	if !in.service.booted {
		in.say("systemd does not run here: as %s, run: %s run", in.Product.Name, in.Product.program(in.packaged))
		return nil
	}
	if err := in.takeUp(ctx); err != nil {
		return err
	}
	if o.NoStart {
		in.say("when you are ready: systemctl enable --now %s", in.Product.Name)
		return nil
	}
	if in.Product.NeedsConfig {
		if _, err := in.Host.Lstat(in.Product.Config); errors.Is(err, fs.ErrNotExist) {
			in.say("next: %s enroll --server https://GATEWAY:8443, then: systemctl enable --now %s", in.Product.Name, in.Product.Name)
			return nil
		}
	}
	if in.service.state(ctx, "is-enabled") != "enabled" {
		if err := in.service.systemctl(ctx, "enable", "--quiet", in.Product.unit()); err != nil {
			return err
		}
	}
	if in.service.active(ctx) && !in.manifest.Restart {
		in.say("%s runs", in.Product.Name)
		return nil
	}
	if err := in.service.restart(ctx); err != nil {
		return err
	}
	in.say("%s runs, and is ready", in.Product.Name)
	in.manifest.Restart = false
	return in.save()
}

// takeUp makes systemd read changed units, and ends what kept a package's
// service from starting before it was configured.
func (in *Installer) takeUp(ctx context.Context) error {
	_, err := in.Host.Lstat(in.hold())
	if err == nil {
		if err := in.Host.Remove(in.hold()); err != nil {
			return fmt.Errorf("removing %s: %w", in.hold(), err)
		}
	}
	if err != nil && !in.manifest.Restart {
		return nil
	}
	return in.service.reload(ctx)
}

// hold is the drop-in with which install.sh keeps a package from starting its
// service.
func (in *Installer) hold() string {
	return "/run/systemd/system/" + in.Product.unit() + ".d/hold.conf"
}

// restart starts the service anew. It may fail at first and be started again by
// systemd; and systemctl succeeds, too, when a condition of the unit keeps it
// from starting.
func (s *service) restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if s.systemctl(ctx, "restart", s.unit) == nil && s.active(ctx) {
		return nil
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w after %s: see journalctl -u %s", ErrNotReady, readyWithin, s.name)
		case <-tick.C:
			if s.active(ctx) {
				return nil
			}
		}
	}
}

// stop stops the service if systemd knows of it.
func (s *service) stop(ctx context.Context) error {
	if !s.booted || s.state(ctx, "is-active") == "unknown" {
		return nil
	}
	return s.systemctl(ctx, "stop", s.unit)
}

// end stops the service, for good if no package has it: a package's scripts do
// the rest.
func (s *service) end(ctx context.Context, packaged bool) error {
	if !s.booted || s.state(ctx, "is-enabled") == "unknown" {
		return nil
	}
	if packaged {
		return s.systemctl(ctx, "stop", s.unit)
	}
	return s.systemctl(ctx, "disable", "--now", "--quiet", s.unit)
}
