package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// errThrownOut is what a wiped device answers to whoever asks something of it.
var errThrownOut = errors.New("this device was thrown out of its fleet and is wiped: " + letBackIn)

// Wiper takes the Agent's place on a device that was told to be wiped: it removes
// what the agent made, and then does nothing. What a power cut leaves undone the
// next start does.
type Wiper struct {
	Runtime container.Runtime
	Store   *store.Store
	// Version of the agent.
	Version string
	Log     *slog.Logger

	started time.Time
	mu      sync.Mutex // guards err
	err     error      // of the last attempt
}

// Run wipes the device. It returns when ctx ends, or when the device has been
// enrolled again and an Agent can run. It calls ready at once.
func (w *Wiper) Run(ctx context.Context, ready func()) {
	w.started = time.Now().UTC()
	ready()
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = minWatchPause, maxWatchPause
	for {
		err := w.wipe(ctx)
		w.note(err)
		if err == nil {
			break
		}
		w.Log.Warn("wiping the device failed", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pauses.NextBackOff()):
		}
	}
	if _, wiping, err := w.Store.Wiping(); err == nil && !wiping {
		return
	}
	w.Log.Warn("the device is wiped", "next", letBackIn)
	<-ctx.Done()
}

func (w *Wiper) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// wipe removes containers before volumes, and all of them before what is known
// of them. It may be cut off anywhere and called again.
func (w *Wiper) wipe(ctx context.Context) error {
	r, ok := w.Store.Revocation()
	if !ok || r.Wiped {
		return nil
	}
	if err := w.wipeRuntime(ctx); err != nil {
		return err
	}
	if err := w.Store.Wipe(r.Enrollment); err != nil {
		return err
	}
	r.Wiped = true
	return w.Store.SaveRevocation(r)
}

func (w *Wiper) wipeRuntime(ctx context.Context) error {
	containers, err := w.Runtime.List(ctx, wire.DeploymentRef{})
	if err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	for _, c := range containers {
		w.Log.Info("removing container", "container", c.Name)
		if err := w.Runtime.Stop(ctx, c.ID); err != nil {
			return err
		}
		if err := w.Runtime.Remove(ctx, c.ID); err != nil {
			return err
		}
	}
	secrets, err := w.Runtime.Secrets(ctx, wire.DeploymentRef{})
	if err != nil {
		return err
	}
	for _, name := range secrets {
		w.Log.Info("removing secret", "secret", name)
		if err := w.Runtime.RemoveSecret(ctx, name); err != nil {
			return err
		}
	}
	volumes, err := w.Runtime.Volumes(ctx, wire.DeploymentRef{})
	if err != nil {
		return err
	}
	for _, v := range volumes {
		w.Log.Info("removing volume", "volume", v)
		if err := w.Runtime.RemoveVolume(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// Status implements control.Agent.
func (w *Wiper) Status() control.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, _ := w.Store.Revocation()
	s := control.Status{Device: r.Device, AgentVersion: w.Version, Started: w.started, Standing: errThrownOut.Error(), LastError: "this device was thrown out"}
	if !r.Wiped {
		s.Standing = "this device was thrown out of its fleet, and is being wiped"
	}
	if w.err != nil {
		s.LastError = w.err.Error()
	}
	return s
}

// ConfirmEpoch implements control.Agent.
func (w *Wiper) ConfirmEpoch() (control.Confirmation, error) {
	return control.Confirmation{}, errThrownOut
}

// Refresh does nothing: there is nobody to ask.
func (w *Wiper) Refresh() {}
