// Package credential looks after what the device proves itself with and whom it
// trusts: it renews the certificate, follows replaced roots, corrects the clock
// when that is why no connection is made, and learns from the server why the
// device is refused.
//
// Nothing here is needed to run workloads: whatever fails is tried again later,
// and the last error is shown.
//
// A renewed identity is unproven until a connection was made with it. Until then
// the previous one is kept, in memory and on the disk, and the two take turns
// whenever the server refuses.
package credential

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Server is the enrollment listener. The seam is for tests; Listener is the
// real one.
type Server interface {
	// Renew is as enroll.Renew.
	Renew(ctx context.Context, r enroll.Renewal) (*enroll.Result, error)
	// Learn is as clock.Learn.
	Learn(ctx context.Context, c *clock.Clock, server string, roots *x509.CertPool, own *tls.Certificate) error
}

// Listener is the Server at the other end of the network.
type Listener struct {
	// Proxy is the way to it; nil for the direct one.
	Proxy *proxy.Proxy
}

// Renew implements Server.
func (l Listener) Renew(ctx context.Context, r enroll.Renewal) (*enroll.Result, error) {
	r.Proxy = l.Proxy
	return enroll.Renew(ctx, r)
}

// Learn implements Server.
func (l Listener) Learn(ctx context.Context, c *clock.Clock, server string, roots *x509.CertPool, own *tls.Certificate) error {
	u, err := url.Parse(server)
	if err != nil {
		return fmt.Errorf("asking for the time: %w", err)
	}
	return c.Learn(ctx, clock.Source{Server: u, Roots: roots, Certificate: own, Dial: l.Proxy.Dialer(new(net.Dialer)).DialContext})
}

// Config is what a Manager is made of. All fields are mandatory.
type Config struct {
	Store  *store.Store
	Keys   keystore.Storage
	Clock  *clock.Clock
	Server Server
	Log    *slog.Logger
}

// Manager holds the credentials of the device. Make it with Load.
type Manager struct {
	cfg  Config
	wake chan struct{}

	mu sync.Mutex // guards what follows
	// use is shown at the next attempt to connect, shown was at the last one.
	use, shown *holding
	// spare is the other one while neither is proven.
	spare *holding
	// connected: the last attempt succeeded; proof: with use. refusals counts the
	// attempts in a row that the server refused.
	connected, proof bool
	refusals         int
	// untimely: the last attempt failed for the time in the server's certificate.
	untimely bool
	err      error // of the last renewal
}

// holding is an identity that is ready for use.
type holding struct {
	identity *store.Identity
	cert     *tls.Certificate
	roots    *x509.CertPool
}

// Status is what a Manager says of itself.
type Status struct {
	// NotBefore and Expires bound the certificate in use; Renewal is when it is due.
	NotBefore, Expires, Renewal time.Time
	// Err is why the last renewal failed, or nil.
	Err error
}

// Load loads the identity of a state directory. Errors wrap store.ErrNoIdentity
// or keystore.ErrText, or say what is damaged.
func Load(cfg Config) (*Manager, error) {
	identity, err := cfg.Store.Identity()
	if err != nil {
		return nil, err
	}
	if !identity.Enrolled() {
		return nil, fmt.Errorf("%w: the last attempt was not finished", store.ErrNoIdentity)
	}
	m := &Manager{cfg: cfg, wake: make(chan struct{}, 1)}
	if m.use, err = m.hold(identity); err != nil {
		return nil, err
	}
	if previous, ok := cfg.Store.PreviousIdentity(identity); ok {
		if m.spare, err = m.hold(previous); err != nil {
			cfg.Log.Warn("the previous identity is not used", "error", err)
		}
	}
	return m, nil
}

func (m *Manager) hold(identity *store.Identity) (*holding, error) {
	key, err := m.cfg.Keys.Load(identity.Key)
	if err != nil {
		return nil, err
	}
	cert, roots, err := identity.TLS(key)
	if err != nil {
		return nil, err
	}
	m.cfg.Clock.NotBefore(cert.Leaf.NotBefore)
	return &holding{identity: identity, cert: cert, roots: roots}, nil
}

var _ link.Credentials = (*Manager)(nil)

// Identity is the identity in use.
func (m *Manager) Identity() *store.Identity { return m.current().identity }

func (m *Manager) current() *holding {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.use
}

// Certificate implements link.Credentials.
func (m *Manager) Certificate() (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shown = m.use
	return m.use.cert, nil
}

// Roots implements link.Credentials.
func (m *Manager) Roots() *x509.CertPool { return m.current().roots }

// Now implements link.Credentials.
func (m *Manager) Now() time.Time { return m.cfg.Clock.Now() }

// Status says how the certificate is.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	leaf := m.use.cert.Leaf
	return Status{NotBefore: leaf.NotBefore, Expires: leaf.NotAfter, Renewal: RenewalTime(leaf), Err: m.err}
}

// Attempted implements link.Credentials.
func (m *Manager) Attempted(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.connected, m.untimely = err == nil, clock.Untimely(err)
	m.proof = false // until the server answers
	switch {
	case err == nil:
		m.refusals = 0
	case m.untimely:
	case errors.Is(err, link.ErrRefused):
		m.refusals++
		m.takeTurns()
	case isUnknownRoot(err):
		m.takeTurns()
	default:
		return // the network: nothing to do about it here
	}
	m.signal()
}

// Answered implements link.Credentials: with the certificate of this connection the
// server takes the device for what it is.
func (m *Manager) Answered() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proof || !m.connected || m.shown != m.use {
		return
	}
	m.proof = true
	m.signal()
}

func (m *Manager) signal() { dirty.Signal(m.wake) }

// takeTurns tries the other one of two unproven identities; the caller holds mu.
// An attempt that began before a renewal says nothing about the new one.
func (m *Manager) takeTurns() {
	if m.spare != nil && m.shown == m.use {
		m.use, m.spare = m.spare, m.use
	}
}

func isUnknownRoot(err error) bool {
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	return ok
}

// Link is the connection that the credentials are for.
type Link interface {
	Reconnect() error
	// Session is the id of its session.
	Session() string
}

// Run works until ctx ends. It calls revoked with what to do whenever the server
// says that the device was revoked.
func (m *Manager) Run(ctx context.Context, l Link, revoked func(wire.Revocation)) {
	w := &worker{Manager: m, link: l, revoked: revoked}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-timer.C:
		}
		timer.Reset(w.step(ctx))
	}
}
