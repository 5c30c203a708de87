package deviceapi

import (
	"context"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// nudgeRate paces a rollout: each nudge brings back a snapshot request, which
// costs about half a millisecond.
const (
	nudgeRate  = 1000 // a second
	nudgeBurst = 100
)

// nudger tells devices to ask for a snapshot. A device that is waiting for
// its nudge is not queued again.
type nudger struct {
	conn *nats.Conn
	// current names the session that is the device, or "": it asks by itself.
	current func(device string) string
	log     *slog.Logger
	limiter *rate.Limiter
	wake    chan struct{}

	mu      sync.Mutex // guards pending and queued
	pending []string
	queued  map[string]bool
}

func newNudger(conn *nats.Conn, current func(device string) string, log *slog.Logger) *nudger {
	return &nudger{
		conn: conn, current: current, log: log, limiter: rate.NewLimiter(nudgeRate, nudgeBurst),
		wake: make(chan struct{}, 1), queued: map[string]bool{},
	}
}

func (n *nudger) add(device string) {
	n.mu.Lock()
	if !n.queued[device] {
		n.queued[device] = true
		n.pending = append(n.pending, device)
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *nudger) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		for device, ok := n.next(); ok; device, ok = n.next() {
			if n.limiter.Wait(ctx) != nil {
				return
			}
			n.send(device)
		}
	}
}

func (n *nudger) next() (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.pending) == 0 {
		n.pending = nil
		return "", false
	}
	device := n.pending[0]
	n.pending = n.pending[1:]
	delete(n.queued, device)
	return device, true
}

// send is best effort: a device asks again by itself after a while.
func (n *nudger) send(device string) {
	session := n.current(device)
	if session == "" {
		return
	}
	subject, err := wire.DownSubject(device, session, wire.KindNudge)
	if err == nil {
		err = n.conn.Publish(subject, nil)
	}
	if err != nil {
		n.log.Warn("nudging a device", "device", device, "error", err)
	}
}
