package link_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fleet.nationtech.io/fleet/pkg/agent/link"
)

var discard = slog.New(slog.DiscardHandler)

// changing are credentials that a test replaces.
type changing struct {
	roots    *x509.CertPool
	now      func() time.Time
	attempts chan error

	mu   sync.Mutex // guards cert
	cert tls.Certificate
	// answered counts the requests that were accepted.
	answered int
}

var _ link.Credentials = (*changing)(nil)

func newChanging(p pki) *changing {
	return &changing{roots: p.roots, cert: p.cert, now: time.Now, attempts: make(chan error, 100)}
}

func (c *changing) set(cert tls.Certificate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cert = cert
}

func (c *changing) Certificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert := c.cert
	return &cert, nil
}

func (c *changing) Roots() *x509.CertPool { return c.roots }

func (c *changing) Now() time.Time { return c.now() }

func (c *changing) Attempted(err error) {
	select {
	case c.attempts <- err:
	default: // more than a test looks at
	}
}

func (c *changing) Answered() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered++
}

func (c *changing) next(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.attempts:
		return err
	case <-time.After(time.Minute):
		t.Fatal("nothing was attempted")
		return nil
	}
}

func (c *changing) expect(t *testing.T, want error) {
	t.Helper()
	if err := c.next(t); !errors.Is(err, want) {
		t.Errorf("the attempt ended with %v, want %v", err, want)
	}
}

func (c *changing) expectUntimely(t *testing.T) {
	t.Helper()
	err := c.next(t)
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || invalid.Reason != x509.Expired || errors.Is(err, link.ErrRefused) {
		t.Errorf("the attempt ended with %v", err)
	}
}

// refuseAll lets nobody in.
type refuseAll struct{}

func (refuseAll) Check(server.ClientAuthentication) bool { return false }
