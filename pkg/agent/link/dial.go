package link

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/nats-io/nats.go"
)

// dialer connects and does the handshake of TLS itself, so that what the NATS
// client reads has limits: see frames.
type dialer struct {
	raw    nats.CustomDialer
	config *tls.Config
	creds  Credentials
}

// SkipTLSHandshake tells the client that its connections are encrypted already.
func (d dialer) SkipTLSHandshake() bool { return true }

// Dial implements nats.CustomDialer. The address has the host as the URL has it,
// see nats.Options.SkipHostLookup.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := d.raw.Dial(network, address)
	if err != nil {
		return nil, err
	}
	config := d.config.Clone()
	config.ServerName, config.RootCAs = host, d.creds.Roots()
	conn := tls.Client(raw, config)
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // nothing was sent
		return nil, fmt.Errorf("%w: %w", nats.ErrTLS, err)
	}
	return &limited{Conn: conn}, nil
}

// limited is a connection that ends when the other side sends what has no end.
type limited struct {
	net.Conn

	frames frames // of the one reader
}

// Read implements net.Conn.
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if bad := l.frames.follow(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}
