package apiserver

import (
	"context"
	"errors"
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

	mu sync.Mutex
	// open are the ends of the clients; nil once no more are wanted.
	open map[*insideConn]struct{}
}

// insideConn is the client's end of a connection.
type insideConn struct {
	net.Conn
	of *inside
}

func newInside(at net.Addr) *inside {
	return &inside{at: at, conns: make(chan net.Conn), closed: make(chan struct{}), open: map[*insideConn]struct{}{}}
}

// Dial connects to it, whatever the address.
func (l *inside) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return l.opened(client)
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *inside) opened(client net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		return nil, errors.Join(net.ErrClosed, client.Close())
	}
	conn := &insideConn{Conn: client, of: l}
	l.open[conn] = struct{}{}
	return conn, nil
}

// hangUp ends all connections, and those that are being made: a server that stops
// waits for requests only, so that a connection which came meanwhile would stay.
func (l *inside) hangUp() {
	l.mu.Lock()
	open := l.open
	l.open = nil
	l.mu.Unlock()
	for conn := range open {
		_ = conn.Conn.Close() // a pipe's never fails
	}
}

// Close implements net.Conn.
func (c *insideConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
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
