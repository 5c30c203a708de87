package connlimit

import (
	"errors"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

var (
	// ErrFull: all places for those that are known are taken.
	ErrFull = errors.New("no place for another connection")
	// errTooMuch: a stranger sent more than a stranger has to say.
	errTooMuch = errors.New("a connection without a certificate sent too much")
)

// Conn is a connection that has a place.
type Conn struct {
	net.Conn

	listener *Listener
	// host and site are the networks that it comes from.
	host, site string
	// bytes is how much it may still send while it is a stranger's.
	bytes atomic.Int64
	known atomic.Bool
	// slow bounds what it may send by the second; nil for any amount.
	slow atomic.Pointer[rate.Limiter]

	// What follows is guarded by the listener.

	// pool and holder are nil once it has no place.
	pool   *pool
	holder *holder
	// spoke: the server had something to do for it.
	spoke bool
	// busy counts what the server does for it. While it is zero the server waits,
	// since then.
	busy  int
	since time.Time
}

// Of returns the connection that an address belongs to: net.Conn's LocalAddr
// and RemoteAddr is all that some servers show of a connection.
func Of(a net.Addr) (c *Conn, ok bool) {
	own, ok := a.(addr)
	return own.conn, ok
}

// addr is an address that knows its connection.
type addr struct {
	net.Addr
	conn *Conn
}

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return addr{c.Conn.RemoteAddr(), c} }

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return addr{c.Conn.LocalAddr(), c} }

// Busy says that it is the server's turn: the connection keeps its place.
func (c *Conn) Busy() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.busy++
	c.spoke = true
}

// Idle ends what Busy began: the server waits for the client.
func (c *Conn) Idle() {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.busy--
	c.since = time.Now()
}

// Know says that a holder proved that the connection is its own. It moves to
// the places for those that are known, of which the holder may have so many,
// zero for any number. At ErrFull it stays where it is.
func (c *Conn) Know(holder string, most int) error {
	if c.known.Load() {
		return nil
	}
	evicted, err := c.listener.know(c, holder, most)
	if evicted != nil {
		_ = evicted.Conn.Close() // it is not needed any more
	}
	return err
}

// Known reports whether Know was successful.
func (c *Conn) Known() bool { return c.known.Load() }

// Slow bounds how many bytes a second are read from it, and how many at once.
// What comes faster waits: the client is held back, and nobody else.
func (c *Conn) Slow(perSecond float64, atOnce int) {
	c.slow.Store(rate.NewLimiter(rate.Limit(perSecond), atOnce))
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	slow := c.slow.Load()
	if slow != nil {
		p = p[:min(len(p), slow.Burst())]
	}
	n, err := c.Conn.Read(p)
	if slow != nil && n > 0 {
		time.Sleep(slow.ReserveN(time.Now(), n).Delay())
	}
	if c.listener.limits.StrangerBytes > 0 && !c.known.Load() && c.bytes.Add(-int64(n)) < 0 {
		c.listener.refuse(reasonBytes)
		return 0, errTooMuch
	}
	return n, err
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.listener.leave(c)
	return c.Conn.Close()
}
