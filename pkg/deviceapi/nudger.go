package deviceapi

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/dirty"
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
	pending *dirty.Set[string]
}

func newNudger(conn *nats.Conn, current func(device string) string, log *slog.Logger) *nudger {
	return &nudger{
		conn: conn, current: current, log: log, limiter: rate.NewLimiter(nudgeRate, nudgeBurst),
		pending: dirty.NewSet[string](),
	}
}

func (n *nudger) add(device string) { n.pending.Add(device) }

func (n *nudger) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.pending.Wake():
		}
		for device, ok := n.pending.Pop(); ok; device, ok = n.pending.Pop() {
			if n.limiter.Wait(ctx) != nil {
				return
			}
			n.send(device)
		}
	}
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
