package deviceapi

import (
	"context"
	"log/slog"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// What the tests see of the unexported parts.
type (
	Limits  = limits
	Reports = reports
	Nudger  = nudger
	Verdict = verdict
)

const (
	Pass   = pass
	Refuse = refuse
	Kick   = kick

	NudgeRate    = nudgeRate
	NudgeBurst   = nudgeBurst
	RetrySeconds = retrySeconds
)

// Budget returns messages a second, and how many at once.
func Budget(kind wire.Kind) (rate float64, burst int) {
	v := kind.Verb()
	return v.Rate, v.Burst
}

// Strikes is the budget of messages over budget.
func Strikes() (rate float64, burst int) { return float64(strikes.rate), strikes.burst }

func NewLimits() *Limits { return newLimits() }

func (l *limits) Take(device string, kind wire.Kind) Verdict { return l.take(device, kind, 0) }

func (l *limits) TakeBytes(device string, kind wire.Kind, bytes int) Verdict {
	return l.take(device, kind, bytes)
}

// Spend takes a message from the budget of a device or of its strays, and drops
// whom it has to.
func (s *Server) Spend(device string, stray bool, kind wire.Kind) Verdict {
	owner := device
	if stray {
		owner += strays
	}
	v := s.limits.take(owner, kind, 0)
	if v == kick {
		s.kick(device, owner, kind)
	}
	return v
}

func (l *limits) Forget(device string) { l.forget(device) }

func NewReports(b *bus.Buckets) *Reports { return newReports(b) }

func (r *reports) Load(ctx context.Context) error { return r.load(ctx) }

func (r *reports) Hashes(device string) (info, state string) { return r.hashes(device) }

func (r *reports) PutInfo(ctx context.Context, device string, payload []byte) error {
	return r.putInfo(ctx, device, payload)
}

func (r *reports) PutState(ctx context.Context, device string, s wire.DeploymentState, payload []byte) error {
	return r.putState(ctx, device, s, payload)
}

func (r *reports) DropStale(ctx context.Context, device string, m *wire.Manifest) error {
	return r.dropStale(ctx, device, m)
}

func (r *reports) Forget(ctx context.Context, device string) error { return r.forget(ctx, device) }

func NewNudger(conn *nats.Conn, current func(string) string, log *slog.Logger) *Nudger {
	return newNudger(conn, current, log)
}

func (n *nudger) Add(device string) { n.add(device) }

func (n *nudger) Run(ctx context.Context) { n.run(ctx) }

type Turns = turns

func NewTurns() *Turns { return newTurns() }

func (t *turns) Add(device string, work func()) { t.add(device, work) }

func (t *turns) Run(ctx context.Context) { t.run(ctx) }
