// Package link is the device's one connection to its fleet: core NATS over
// mutual TLS, with the requests and the nudge that package wire describes.
//
// A Link keeps no desired state and starts no goroutine of its own beyond
// those of the NATS client, so that a simulator can hold a thousand of them.
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrDisconnected: there is no connection at present.
var ErrDisconnected = errors.New("not connected to the fleet server")

const (
	// connectTimeout covers TCP and TLS. A gateway that restarts is met by its
	// whole fleet at once; 1,000 handshakes take it more than a second.
	connectTimeout = 15 * time.Second
	requestTimeout = 10 * time.Second
	// A dead connection is noticed within pingInterval × maxPings.
	pingInterval = 30 * time.Second
	maxPings     = 2
	// Bounds of the pause between two attempts to connect.
	minBackoff, maxBackoff = time.Second, 5 * time.Minute
	// noReconnectBuffer: what is said while disconnected is said again by the
	// callers; a buffer would bring old reports out of order.
	noReconnectBuffer = -1
)

// Config is what a Link needs. Device, Servers, Certificate and Roots are
// mandatory.
type Config struct {
	Device string
	// Servers are NATS URLs; they are tried in random order.
	Servers     []string
	Certificate tls.Certificate
	Roots       *x509.CertPool
	// Dial replaces the TCP dialer when it is set.
	Dial nats.CustomDialer
	Log  *slog.Logger
}

// Link is a connection that is re-established for as long as it is open.
type Link struct {
	device    string
	conn      *nats.Conn
	log       *slog.Logger
	connected chan struct{}
	nudges    chan struct{}

	mu      sync.Mutex // guards servers and lastErr
	servers []string
	lastErr error
}

// Open starts connecting and returns at once; it fails for a bad Config only.
func Open(cfg Config) (*Link, error) {
	prefix, err := wire.InboxPrefix(cfg.Device)
	if err != nil {
		return nil, err
	}
	nudge, err := wire.NudgeSubject(cfg.Device)
	if err != nil {
		return nil, err
	}
	l := &Link{
		device:    cfg.Device,
		log:       cfg.Log,
		connected: make(chan struct{}, 1),
		nudges:    make(chan struct{}, 1),
		servers:   slices.Clone(cfg.Servers),
	}
	if l.conn, err = nats.Options(l.options(cfg, prefix)).Connect(); err != nil {
		return nil, fmt.Errorf("opening the connection: %w", err)
	}
	if _, err := l.conn.Subscribe(nudge, func(*nats.Msg) { signal(l.nudges) }); err != nil {
		l.conn.Close()
		return nil, fmt.Errorf("subscribing to nudges: %w", err)
	}
	return l, nil
}

func (l *Link) options(cfg Config, inbox string) nats.Options {
	o := nats.GetDefaultOptions()
	o.Servers = cfg.Servers
	o.Name = cfg.Device
	o.InboxPrefix = inbox
	o.Secure = true
	o.TLSHandshakeFirst = true
	o.TLSConfig = &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      cfg.Roots,
		Certificates: []tls.Certificate{cfg.Certificate},
		Time:         floor(cfg.Certificate),
	}
	o.CustomDialer = cfg.Dial
	o.IgnoreDiscoveredServers = true // the manifest names the servers, not whoever answers
	o.IgnoreAuthErrorAbort = true    // a device that is approved again must come back by itself
	o.RetryOnFailedConnect = true
	o.MaxReconnect = -1
	o.CustomReconnectDelayCB = delay
	o.ReconnectBufSize = noReconnectBuffer
	o.Timeout = connectTimeout
	o.PingInterval = pingInterval
	o.MaxPingsOut = maxPings
	o.NoCallbacksAfterClientClose = true
	o.ConnectedCB = l.onConnect
	o.ReconnectedCB = l.onConnect
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) { l.onError("disconnected from the fleet server", err) }
	o.ReconnectErrCB = func(_ *nats.Conn, err error) { l.onError("connecting failed", err) }
	o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		l.onError("the fleet server reports an error", err)
	}
	return o
}

// floor is the clock that certificates are checked by. A device without a
// battery-backed clock may start in 1970; a clock before the beginning of the
// device's own certificate is certainly wrong.
func floor(cert tls.Certificate) func() time.Time {
	return func() time.Time {
		now := time.Now()
		if cert.Leaf != nil && now.Before(cert.Leaf.NotBefore) {
			return cert.Leaf.NotBefore
		}
		return now
	}
}

// delay is the pause before the given attempt: full jitter, so that a fleet
// that lost its gateway at one moment does not come back at one moment.
func delay(attempt int) time.Duration {
	const doublings = 9 // 1 s doubled 9 times is over 5 min
	limit := min(maxBackoff, minBackoff<<min(max(attempt-1, 0), doublings))
	return time.Duration(rand.Int64N(int64(limit))) + time.Millisecond
}

func (l *Link) onConnect(c *nats.Conn) {
	l.setError(nil)
	l.log.Info("connected to the fleet server", "url", c.ConnectedUrlRedacted())
	signal(l.connected)
}

func (l *Link) onError(msg string, err error) {
	if err == nil {
		return
	}
	l.setError(err)
	l.log.Warn(msg, "error", err)
}

func (l *Link) setError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastErr = err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already, and says the same
	}
}

// Connected receives after each time that the connection is made. Signals that
// nobody took yet become one.
func (l *Link) Connected() <-chan struct{} { return l.connected }

// Nudges receives when the server asks for a snapshot request. Signals that
// nobody took yet become one.
func (l *Link) Nudges() <-chan struct{} { return l.nudges }

// Server returns the URL of the present connection, or "" and why there is none.
func (l *Link) Server() (url string, err error) {
	if l.conn.IsConnected() {
		return l.conn.ConnectedUrlRedacted(), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lastErr != nil {
		return "", l.lastErr
	}
	return "", ErrDisconnected
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

// Close ends the connection for good.
func (l *Link) Close() { l.conn.Close() }

// publish sends without waiting for anything.
func (l *Link) publish(kind wire.Kind, payload []byte) error {
	subject, err := wire.UpSubject(l.device, kind)
	if err != nil {
		return err
	}
	return transport(l.conn.Publish(subject, payload))
}

// request sends a message of some kind and returns the reply.
func (l *Link) request(ctx context.Context, kind wire.Kind, payload []byte) ([]byte, error) {
	if len(payload) > wire.MaxPayload(kind) {
		return nil, fmt.Errorf("%w: %d bytes of %s, at most %d are allowed", wire.ErrPayload, len(payload), kind, wire.MaxPayload(kind))
	}
	subject, err := wire.UpSubject(l.device, kind)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := l.conn.RequestWithContext(ctx, subject, payload)
	if err != nil {
		return nil, transport(err)
	}
	return msg.Data, nil
}

// transport makes every way of having no connection one error.
func transport(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrDisconnected):
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("the fleet server is not ready: %w", err)
	}
	return err
}
