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

func (in *Installer) systemctl(ctx context.Context, args ...string) error {
	return in.Host.Run(ctx, append([]string{"systemctl"}, args...)...)
}

// state is what systemd says of the unit: is-active or is-enabled. It says so
// with an exit status too, which is no error here.
func (in *Installer) state(ctx context.Context, question string) string {
	out, err := in.Host.Query(ctx, "systemctl", question, in.Product.unit())
	if err != nil && out == "" {
		return "unknown"
	}
	return strings.TrimSpace(out)
}

func (in *Installer) active(ctx context.Context) bool {
	return in.booted && in.state(ctx, "is-active") == "active"
}

// start makes the service run with what is installed now, and waits until it is
// ready.
func (in *Installer) start(ctx context.Context, o Options) error {
	if !in.booted {
		in.say("systemd does not run here: as %s, run: %s run", in.Product.Name, in.program())
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
	if in.state(ctx, "is-enabled") != "enabled" {
		if err := in.systemctl(ctx, "enable", "--quiet", in.Product.unit()); err != nil {
			return err
		}
	}
	if in.active(ctx) && !in.manifest.Restart {
		in.say("%s runs", in.Product.Name)
		return nil
	}
	if err := in.restart(ctx); err != nil {
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
	return in.systemctl(ctx, "daemon-reload")
}

// hold is the drop-in with which install.sh keeps a package from starting its
// service.
func (in *Installer) hold() string {
	return "/run/systemd/system/" + in.Product.unit() + ".d/hold.conf"
}

// restart starts the service anew. It may fail at first and be started again by
// systemd; and systemctl succeeds, too, when a condition of the unit keeps it
// from starting.
func (in *Installer) restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if in.systemctl(ctx, "restart", in.Product.unit()) == nil && in.active(ctx) {
		return nil
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w after %s: see journalctl -u %s", ErrNotReady, readyWithin, in.Product.Name)
		case <-tick.C:
			if in.active(ctx) {
				return nil
			}
		}
	}
}

// stop stops the service if systemd knows of it.
func (in *Installer) stop(ctx context.Context) error {
	if !in.booted || in.state(ctx, "is-active") == "unknown" {
		return nil
	}
	return in.systemctl(ctx, "stop", in.Product.unit())
}

func (in *Installer) program() string {
	if in.packaged {
		return in.Product.Packaged()
	}
	return in.Product.Program()
}
