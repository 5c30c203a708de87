package deviceapi

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A rollout goes as fast as the server answers: each nudge brings back a snapshot
// request, and so many may be on their way.
const (
	maxNudged = 128
	// nudgePatience is how long a device that was nudged keeps its place. After that
	// it is slow, or hangs.
	nudgePatience = 500 * time.Millisecond
)

// nudger tells devices to ask for a snapshot. A device that is waiting for
// its nudge is not queued again.
type nudger struct {
	conn *nats.Conn
	// current names the session that is the device, or "": it asks by itself.
	current  func(device string) string
	log      *slog.Logger
	patience time.Duration
	pending  *dirty.Set[string]
	// places has an element for each device in nudged.
	places chan struct{}

	mu sync.Mutex // guards nudged
	// nudged are the devices that have not asked yet, with what ends the patience.
	nudged map[string]*time.Timer
}

func newNudger(conn *nats.Conn, current func(device string) string, log *slog.Logger) *nudger {
	return &nudger{
		conn: conn, current: current, log: log, patience: nudgePatience, pending: dirty.NewSet[string](),
		places: make(chan struct{}, maxNudged), nudged: map[string]*time.Timer{},
	}
}

func (n *nudger) add(device string) { n.pending.Add(device) }

// asked tells that a device was given a snapshot, or is not there any more.
func (n *nudger) asked(device string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leave(device)
}

// leave gives a device's place back, if it has one. n.mu is held.
func (n *nudger) leave(device string) {
	if timer := n.nudged[device]; timer != nil {
		timer.Stop()
		delete(n.nudged, device)
		<-n.places
	}
}

// take gives a device the place that was taken for it.
func (n *nudger) take(device string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leave(device)
	var own *time.Timer
	own = time.AfterFunc(n.patience, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.nudged[device] == own {
			n.leave(device)
		}
	})
	n.nudged[device] = own
}

// run nudges until ctx ends.
func (n *nudger) run(ctx context.Context) error {
	n.pending.Signal() // what a panic left
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.pending.Wake():
		}
		for device, ok := n.pending.Pop(); ok; device, ok = n.pending.Pop() {
			select {
			case <-ctx.Done():
				return nil
			case n.places <- struct{}{}:
			}
			n.nudge(device)
		}
	}
}

// nudge nudges a device that a place was taken for. If that panics, it waits for its nudge
// again.
func (n *nudger) nudge(device string) {
	n.take(device) // before it can ask
	sent, panics := false, true
	defer func() {
		if panics {
			n.add(device)
		}
		if !sent {
			n.asked(device)
		}
	}()
	sent, panics = n.send(device), false
}

// send reports whether a nudge is on its way. It is best effort: a device asks again by
// itself after a while.
func (n *nudger) send(device string) bool {
	session := n.current(device)
	if session == "" {
		return false
	}
	subject, err := wire.DownSubject(device, session, wire.KindNudge)
	if err == nil {
		err = n.conn.Publish(subject, nil)
	}
	if err != nil {
		n.log.Warn("nudging a device", "device", device, "error", err)
	}
	return err == nil
}
