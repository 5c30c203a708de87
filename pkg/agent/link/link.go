// Package link is the device's one connection to its fleet: core NATS over
// mutual TLS. What is said over it is package deviceclient's.
//
// A Link keeps no desired state and starts no goroutine of its own beyond
// those of the NATS client, so that a simulator can hold a thousand of them.
//
// A Link is one session: it makes a random id when it is opened, gives it as
// the name of every connection, sends it with every message, and listens on
// subjects that only who knows the id may listen on. The same
// session comes back after each loss of the connection; only another process
// has another one, and takes over from this.
package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// connectTimeout covers TCP and TLS. A gateway that restarts is met by its
	// whole fleet at once; 1,000 handshakes take it more than a second.
	connectTimeout = 15 * time.Second
	// unacknowledged is how long what was sent, each heartbeat too, may wait for the
	// other end until the system ends the connection.
	unacknowledged = time.Minute
	// A server that does not answer although its system does is noticed within
	// pingInterval × maxPings. Each answer makes NATS keep 32 KB more for this
	// connection until some collections later, hence rarely.
	pingInterval = 10 * time.Minute
	maxPings     = 2
	// proxiedPingInterval replaces it where a proxy acknowledges for a server that
	// may be long gone.
	proxiedPingInterval = 2 * time.Minute
	// noReconnectBuffer: what is said while disconnected is said again by the
	// callers; a buffer would bring old reports out of order.
	noReconnectBuffer = -1
)

// Config is what a Link needs. Dial and Proxy may be nil.
type Config struct {
	Device string
	// Servers are NATS URLs; they are tried in random order.
	Servers     []string
	Credentials Credentials
	// Dial replaces the TCP dialer when it is set.
	Dial nats.CustomDialer
	// Proxy is the way to the servers, unless Dial is set; nil for the direct one.
	Proxy *proxy.Proxy
	Log   *slog.Logger
}

// Link is a connection that is re-established for as long as it is open.
type Link struct {
	*deviceclient.Client

	credentials Credentials
	conn        *nats.Conn
	// opened is closed once conn is set: the client calls back before that.
	opened      chan struct{}
	log         *slog.Logger
	connected   chan struct{}
	nudges      chan struct{}
	revocations chan wire.Revocation
	// rare: this device was revoked, and asks rarely to come back.
	rare atomic.Bool
	// shown: the attempt under way came as far as the device's certificate.
	shown atomic.Bool
	// ahead is by how much the system's clock was ahead of the server's when it
	// last answered; nil before.
	ahead atomic.Pointer[time.Duration]

	mu      sync.Mutex // guards what follows
	servers []string
	lastErr error
	// lost is when the connection was last lost; zero before.
	lost time.Time
}

// Ahead returns by how much the system's clock is ahead of the server's, as far
// as its last answer to a snapshot request tells.
func (l *Link) Ahead() (ahead time.Duration, known bool) {
	if d := l.ahead.Load(); d != nil {
		return *d, true
	}
	return 0, false
}

// Open starts connecting and returns at once; it fails for a bad Config only.
func Open(cfg Config) (*Link, error) {
	session := deviceclient.NewSession(cfg.Device)
	l := &Link{
		credentials: cfg.Credentials,
		opened:      make(chan struct{}),
		log:         cfg.Log,
		connected:   make(chan struct{}, 1),
		nudges:      make(chan struct{}, 1),
		revocations: make(chan wire.Revocation, 1),
		servers:     slices.Clone(cfg.Servers),
	}
	options := l.options(cfg)
	if err := session.Identify(&options); err != nil {
		return nil, err
	}
	conn, err := options.Connect()
	if err != nil {
		return nil, fmt.Errorf("opening the connection: %w", err)
	}
	l.conn, l.Client = conn, deviceclient.New(conn, session)
	close(l.opened)
	if err := errors.Join(l.OnNudge(func() { dirty.Signal(l.nudges) }), l.OnRevoked(l.revoked)); err != nil {
		l.conn.Close()
		return nil, err
	}
	return l, nil
}

// Snapshot asks for the manifest, see deviceclient.
func (l *Link) Snapshot(ctx context.Context, req wire.SnapshotRequest) (*wire.SnapshotReply, error) {
	reply, err := l.Client.Snapshot(ctx, req)
	if err != nil {
		return reply, err
	}
	if reply.Status != wire.SnapshotRetryLater {
		l.credentials.Answered()
	}
	if !reply.Time.IsZero() {
		l.ahead.Store(new(time.Now().Round(0).Sub(reply.Time))) // Round: as the system's clock shows it
	}
	return reply, nil
}

func (l *Link) options(cfg Config) nats.Options {
	o := nats.GetDefaultOptions()
	o.Servers = cfg.Servers
	o.Secure = true
	o.TLSHandshakeFirst = true
	o.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       cfg.Credentials.Now,
		// Whatever issuers the server names: it may know of this device's by a
		// certificate that replaces the one named.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			l.shown.Store(true)
			return cfg.Credentials.Certificate()
		},
	}
	d := dialer{raw: cfg.Dial, config: o.TLSConfig, creds: cfg.Credentials}
	if d.raw == nil {
		d.raw = way{cfg.Proxy.Dialer(newDialer())}
	}
	o.CustomDialer, o.SkipHostLookup = d, true
	o.IgnoreDiscoveredServers = true // the manifest names the servers, not whoever answers
	o.IgnoreAuthErrorAbort = true    // a device that is approved again must come back by itself
	o.RetryOnFailedConnect = true
	o.MaxReconnect = -1
	o.CustomReconnectDelayCB = l.delay
	o.ReconnectBufSize = noReconnectBuffer
	o.Timeout = connectTimeout
	o.PingInterval = pingInterval
	if cfg.Proxy != nil {
		o.PingInterval = proxiedPingInterval
	}
	o.MaxPingsOut = maxPings
	o.NoCallbacksAfterClientClose = true
	o.ConnectedCB = l.onConnect
	o.ReconnectedCB = l.onConnect
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) {
		l.disconnected()
		l.onError("disconnected from the fleet server", err)
	}
	o.ReconnectErrCB = func(_ *nats.Conn, err error) { l.failed(err) }
	o.AsyncErrorCB = func(c *nats.Conn, _ *nats.Subscription, err error) {
		if c.IsConnected() { // otherwise it is one of an attempt, see delay
			l.onError("the fleet server reports an error", err)
		}
	}
	return o
}

func (l *Link) onConnect(c *nats.Conn) {
	l.setError(nil)
	l.shown.Store(false)
	l.credentials.Attempted(nil)
	l.log.Info("connected to the fleet server", "url", c.ConnectedUrlRedacted())
	dirty.Signal(l.connected)
}

func (l *Link) onError(msg string, err error) {
	if err == nil {
		return
	}
	l.setError(err)
	l.log.Warn(msg, "error", err)
}

// revoked passes on what to do. What cannot be read says at least that the
// device was revoked.
func (l *Link) revoked(notice wire.RevokedNotice, err error) {
	if err != nil {
		l.log.Warn("the notice of revocation does not say what to do: workloads go on", "error", err)
	}
	select {
	case <-l.revocations: // the latest counts
	default:
	}
	l.revocations <- notice.Revocation // only here, and by one goroutine: there is room
}

func (l *Link) setError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastErr = err
}

// Connected receives after each time that the connection is made. Signals that
// nobody took yet become one.
func (l *Link) Connected() <-chan struct{} { return l.connected }

// Nudges receives when the server asks for a snapshot request. Signals that
// nobody took yet become one.
func (l *Link) Nudges() <-chan struct{} { return l.nudges }

// Revocations receives what to do when the server revokes the device.
func (l *Link) Revocations() <-chan wire.Revocation { return l.revocations }

// Server returns the URL of the present connection, or "" and why there is none.
func (l *Link) Server() (url string, err error) {
	if l.conn.IsConnected() {
		return l.conn.ConnectedUrlRedacted(), nil
	}
	if err := l.lastError(); err != nil {
		return "", err
	}
	return "", deviceclient.ErrDisconnected
}

func (l *Link) disconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = time.Now()
}

// LastContact is when there last was a connection; zero when there was none.
func (l *Link) LastContact() time.Time {
	if l.conn.IsConnected() {
		return time.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// SetServers replaces the list of servers. The present connection stays.
func (l *Link) SetServers(servers []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(servers, l.servers) {
		return nil
	}
	if err := l.conn.SetServerPool(servers); err != nil {
		return fmt.Errorf("replacing the list of servers: %w", err)
	}
	l.servers = slices.Clone(servers)
	return nil
}

// Reconnect connects anew at once: with what Credentials are by now, or because
// an obstacle is gone. Without a connection it ends the pause before the next
// attempt.
func (l *Link) Reconnect() error {
	if err := l.conn.ForceReconnect(); err != nil {
		return fmt.Errorf("connecting anew: %w", err)
	}
	return nil
}

// Session is the id of the session: a secret that this process shares with the server.
func (l *Link) Session() string { return l.ID }

// Rarely makes the pauses between attempts longer for good, because the device
// was revoked: a new enrollment needs a new Link.
func (l *Link) Rarely() { l.rare.Store(true) }

// Close ends the connection for good.
func (l *Link) Close() { l.conn.Close() }
