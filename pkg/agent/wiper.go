package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// errRevoked is what a wiped device answers to whoever asks something of it.
var errRevoked = errors.New("this device was revoked and is wiped: " + letBackIn)

// Wiper takes the Agent's place on a device that was told to be wiped: it removes
// what the agent made, and then does nothing. What a power cut leaves undone the
// next start does.
type Wiper struct {
	Drivers workload.Drivers
	Store   *store.Store
	// Version of the agent.
	Version string
	Log     *slog.Logger

	mu      sync.Mutex // guards what follows
	started time.Time
	err     error // of the last attempt
}

// Run wipes the device. It returns when ctx ends, or when the device has been
// enrolled again and an Agent can run. It calls ready at once.
func (w *Wiper) Run(ctx context.Context, ready func()) {
	w.mu.Lock()
	w.started = time.Now().UTC()
	w.mu.Unlock()
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

// wipe removes workloads before what is known of them. It may be cut off anywhere
// and called again.
func (w *Wiper) wipe(ctx context.Context) error {
	r, ok := w.Store.Revocation()
	if !ok || r.Wiped {
		return nil
	}
	for _, d := range w.Drivers {
		if err := d.Wipe(ctx); err != nil {
			return fmt.Errorf("removing %s: %w", d.About().Name, err)
		}
	}
	if err := w.Store.Wipe(r.Enrollment); err != nil {
		return err
	}
	r.Wiped = true
	return w.Store.SaveRevocation(r)
}

// Status implements control.Agent.
func (w *Wiper) Status() control.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, _ := w.Store.Revocation()
	s := control.Status{Device: r.Device, AgentVersion: w.Version, Started: w.started, Standing: errRevoked.Error(), LastError: "this device was revoked"}
	if !r.Wiped {
		s.Standing = "this device was revoked, and is being wiped"
	}
	if w.err != nil {
		s.LastError = w.err.Error()
	}
	return s
}

// ConfirmEpoch implements control.Agent.
func (w *Wiper) ConfirmEpoch() (control.Confirmation, error) {
	return control.Confirmation{}, errRevoked
}

// Restart implements control.Agent.
func (w *Wiper) Restart(context.Context, []services.Name) error { return errRevoked }

// Refresh does nothing: there is nobody to ask.
func (w *Wiper) Refresh() {}
