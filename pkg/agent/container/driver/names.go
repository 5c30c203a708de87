package driver

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Names tells about the runtime's server of names.
type Names interface {
	// NamesLost reports whether containers need it and it has ended.
	NamesLost(ctx context.Context) (bool, error)
}

// renewTimeout bounds how long it takes to start the server of names anew.
const renewTimeout = 20 * time.Second

// names watches the server of names.
type names struct {
	Names // nil for none

	mu   sync.Mutex // guards what follows
	said string
	// cleared: what an earlier run of the agent left is gone.
	cleared bool
}

// clearOnce removes, at the first look, what an earlier run of the agent left when it ended in the
// middle: it would keep its network and its image for good.
func (d *Driver) clearOnce(ctx context.Context) {
	d.names.mu.Lock()
	cleared := d.names.cleared
	d.names.mu.Unlock()
	if cleared {
		return
	}
	if err := d.runtime.ClearNames(ctx); err != nil {
		d.log.Debug("what an earlier run left is not cleared yet", "error", err)
		return
	}
	d.names.mu.Lock()
	defer d.names.mu.Unlock()
	d.names.cleared = true
}

// lacks says what became of the server of names at the last look; empty for nothing.
func (n *names) lacks() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.said
}

func (n *names) say(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said = text
}

// mendNames starts the server of names anew when it has ended: containers do not find each
// other, or anything else by name, until the next one of a network starts.
func (d *Driver) mendNames(ctx context.Context, list []container.Container) {
	d.names.say("")
	if d.names.Names != nil {
		d.clearOnce(ctx)
	}
	i := slices.IndexFunc(list, func(c container.Container) bool { return c.State == container.StateRunning && bridged(c.Network) })
	if d.names.Names == nil || i < 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	lost, err := d.names.NamesLost(ctx)
	if err != nil {
		d.log.Debug("nobody says whether the server of names runs", "error", err)
	}
	if !lost {
		return
	}
	c := &list[i]
	err = d.runtime.RenewNames(ctx, c.Network, c.Image)
	if lost, askErr := d.names.NamesLost(ctx); askErr == nil && !lost {
		d.log.Warn("podman's server of names had ended, and was started anew", "network", c.Network)
		d.names.say("podman's server of names (aardvark-dns) had ended, and was started anew")
		return
	}
	d.log.Error("podman's server of names has ended, and does not start", "network", c.Network, "error", err)
	d.names.say("services do not find each other by name: podman's server of names (aardvark-dns) has ended, and does not start: see fleet-agent doctor")
}

// bridged reports whether a LabelNetwork is the name of a NetworkBridge.
func bridged(network string) bool {
	return strings.Contains(network, "_") && !container.IsShared(network)
}
