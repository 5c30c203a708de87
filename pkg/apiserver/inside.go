package apiserver

import (
	"context"
	"net"
	"sync"
)

// inside is the listener of the server's own clients. Its connections are in
// memory: whatever strangers do to the port, they take nothing away from it.
type inside struct {
	// at is the address that the server says it has.
	at     net.Addr
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func newInside(at net.Addr) *inside {
	return &inside{at: at, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to it, whatever the address.
func (l *inside) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (l *inside) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *inside) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *inside) Addr() net.Addr { return l.at }
