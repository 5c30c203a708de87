package deviceapi

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// What the tests see of the unexported parts.
type (
	Reports = reports
	Nudger  = nudger
)

const (
	MaxNudged    = maxNudged
	RetrySeconds = retrySeconds
)

func NewReports(b *bus.Buckets, r *roster.Roster) *Reports { return &reports{buckets: b, roster: r} }

func (r *reports) Load(ctx context.Context) error { return r.load(ctx) }

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

func (n *nudger) SetPatience(d time.Duration) { n.patience = d }

func (n *nudger) Asked(device string) { n.asked(device) }

func (n *nudger) Run(ctx context.Context) { _ = n.run(ctx) } // it returns no error

func (n *nudger) Loop(ctx context.Context) error { return n.run(ctx) }

type Turns = turns

func NewTurns() *Turns {
	return newTurns((*guard.Panics)(nil).Loop("test", slog.New(slog.DiscardHandler)))
}

func (t *turns) Add(device string, work func()) bool {
	return t.add(device, piece{do: work, own: true})
}

// AddOther queues what is not the device's own.
func (t *turns) AddOther(device string) bool { return t.add(device, piece{do: func() {}}) }

// MaxOwn is how much of one device waits.
const MaxOwn = maxOwn

func (t *turns) Run(ctx context.Context) { t.run(ctx) }
