package link

import (
	"crypto/tls"
	"crypto/x509"
	"time"
)

// Credentials are what the device proves itself with and whom it trusts. A Link
// asks for them before every connection, because they change while it is open:
// certificates are renewed, roots replaced. Methods may be called concurrently
// and must not block.
type Credentials interface {
	// Certificate is the client certificate.
	Certificate() (*tls.Certificate, error)
	// Roots are the certificates that the server's chain may end in.
	Roots() *x509.CertPool
	// Now is the time at which the server's chain has to be valid.
	Now() time.Time
	// Attempted learns how every attempt to connect ended: with nil, with an
	// error that wraps ErrRefused, or with another, in which *x509 errors of the
	// server's chain can be found.
	Attempted(err error)
	// Answered learns that the server accepted a snapshot request over the present
	// connection. Only then it has taken this session, and its key, for the device.
	Answered()
}

// Fixed are Credentials that never change.
type Fixed struct {
	Cert *tls.Certificate
	Pool *x509.CertPool
}

// Certificate implements Credentials.
func (f Fixed) Certificate() (*tls.Certificate, error) { return f.Cert, nil }

// Roots implements Credentials.
func (f Fixed) Roots() *x509.CertPool { return f.Pool }

// Now implements Credentials by the system's clock.
func (f Fixed) Now() time.Time { return time.Now() }

// Attempted implements Credentials.
func (f Fixed) Attempted(error) {}

// Answered implements Credentials.
func (f Fixed) Answered() {}
