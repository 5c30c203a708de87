package remotebus

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/refusals"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// probeName is the user of the connection that tries the callout at the start. It may say
	// and hear nothing.
	probeName = "fleet-probe"
	// requestTimeout bounds a request of the system account, and the probe.
	requestTimeout = 10 * time.Second
	// sweepInterval is how often NATS is asked which connections there are: an event that is
	// lost is nowhere else.
	sweepInterval = time.Minute
	// pageSize is how many connections a server lists at once.
	pageSize = 1024

	// Lines a second that the log has about devices that are refused, and how many at once.
	logRate, logBurst = 20, 200
)

// Bus is the bus of an existing NATS.
type Bus struct {
	Config

	// DeviceConn is a connection in the account of devices, CoreConn one in that of the buckets.
	DeviceConn, CoreConn *nats.Conn

	system      *nats.Conn
	connections *connections
	// turns are taken by callouts that are being answered.
	turns chan struct{}
	// probe is the password of the probe. asked: NATS has asked who that is; sealed: it has
	// asked what cannot be decrypted.
	probe         string
	asked, sealed atomic.Bool
	refused       *prometheus.CounterVec
	admission     bus.Admission
	guard         *guard.Guard
	log           *slog.Logger
}

// Start connects to NATS, checks its configuration, and answers its callouts. It returns one
// of the package's errors for a mistake in the configuration.
func Start(ctx context.Context, c Config) (*Bus, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	b := &Bus{
		Config: c, connections: newConnections(), turns: make(chan struct{}, maxCallouts), probe: rand.Text(),
		refused: refusals.New(refusals.Bus), guard: c.Panics.Loop("connections", c.Logger), log: c.Logger,
	}
	b.admission = bus.Admission{
		Gate: c.Gate, Crowded: b.refused.WithLabelValues("sessions").Inc, Log: c.Logger, MayLog: rate.NewLimiter(logRate, logBurst).Allow,
	}
	if err := b.start(ctx); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

func (b *Bus) start(ctx context.Context) error {
	var connecting errgroup.Group
	for account, to := range map[string]struct {
		conn **nats.Conn
		user nkeys.KeyPair
	}{bus.AccountDevices: {&b.DeviceConn, b.Keys.Devices}, bus.AccountCore: {&b.CoreConn, b.Keys.Core}, bus.AccountSystem: {&b.system, b.Keys.System}} {
		connecting.Go(func() error {
			login, err := loginOf(to.user)
			if err == nil {
				*to.conn, err = b.connect(account, login)
			}
			return err
		})
	}
	if err := connecting.Wait(); err != nil {
		return err
	}
	if size := b.CoreConn.MaxPayload(); size < wire.MaxReply {
		return fmt.Errorf("NATS takes messages of %d bytes: its max_payload has to be %d at least", size, wire.MaxReply)
	}
	js, err := jetstream.New(b.CoreConn)
	if err != nil {
		return err
	}
	if _, err := js.AccountInfo(ctx); errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) {
		return ErrNoJetStream
	} else if err != nil {
		return fmt.Errorf("asking NATS for JetStream: %w", err)
	}
	if err := b.subscribe(); err != nil {
		return err
	}
	return b.check(ctx)
}

// subscribe answers callouts, and hears which connections begin and end.
func (b *Bus) subscribe() error {
	for _, s := range []struct {
		subject string
		each    nats.MsgHandler
	}{
		{calloutSubject, b.answer},
		{"$SYS.ACCOUNT." + bus.AccountDevices + ".CONNECT", b.onEvent(func(p place) { b.connections.begin(p, time.Now()) })},
		{"$SYS.ACCOUNT." + bus.AccountDevices + ".DISCONNECT", b.onEvent(b.ended)},
	} {
		if _, err := b.system.Subscribe(s.subject, s.each); err != nil {
			return fmt.Errorf("subscribing to %s: %w", s.subject, err)
		}
	}
	return b.system.Flush()
}

// event is what NATS tells of a connection, see its system events.
type event struct {
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Client struct {
		ID uint64 `json:"id"`
	} `json:"client"`
}

func (b *Bus) onEvent(do func(place)) nats.MsgHandler {
	return func(m *nats.Msg) {
		var e event
		if json.Unmarshal(m.Data, &e) == nil {
			b.guard.Do(func() { do(place{e.Server.ID, e.Client.ID}) }, "connection", e.Client.ID)
		}
	}
}

// ended tells the gate of the end of a connection.
func (b *Bus) ended(p place) {
	if n, known := b.connections.end(p); known {
		b.Gate.Disconnected(n)
	}
}

// check tries the system account and the callout.
func (b *Bus) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := b.system.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING", nil); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSystem, err)
	}
	conn, err := b.connect(bus.AccountDevices, nats.UserInfo(probeName, b.probe), nats.NoReconnect(), nats.Timeout(requestTimeout))
	switch {
	case err == nil:
		conn.Close()
		return nil
	case b.sealed.Load():
		return ErrXKey
	case b.asked.Load():
		return ErrIssuer
	case errors.Is(err, nats.ErrAuthorization):
		return ErrNoCallout
	}
	return err
}

// Run keeps up with NATS until ctx ends: it ends what nobody let in here, and forgets what
// NATS does not have.
func (b *Bus) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := b.sweep(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("NATS does not say which connections it has", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (b *Bus) owns(device string) bool { return b.Owns == nil || b.Owns(device) }

// Collectors are the metrics of what is refused.
func (b *Bus) Collectors() []prometheus.Collector { return []prometheus.Collector{b.refused} }

// Close ends the connections.
func (b *Bus) Close() {
	for _, conn := range []*nats.Conn{b.DeviceConn, b.CoreConn, b.system} {
		if conn != nil {
			conn.Close()
		}
	}
}
