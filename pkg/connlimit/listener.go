package connlimit

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/handshake"
)

// Reasons of refusals.
const (
	reasonConnections = "connections" // there was no place
	reasonDisplaced   = "displaced"   // it let the server wait, and another one needed its place
	reasonDescriptors = "descriptors" // the process may open no more
	reasonBytes       = "bytes"       // a stranger sent too much
)

// How long accepting rests after an error, at first and at most.
const restMin, restMax = 5 * time.Millisecond, time.Second

// Listener is a net.Listener with a bounded number of connections. It ends by
// Close alone: an error of the system, such as a lack of descriptors, passes.
type Listener struct {
	net.Listener

	limits  Limits
	refused func(reason string)
	log     *slog.Logger
	lines   *rate.Limiter
	closed  chan struct{}
	close   sync.Once

	mu                      sync.Mutex // guards what follows, and parts of Conn
	strangers, local, known *pool
}

// New bounds the connections of a listener. refused is told why one was turned
// away.
func New(l net.Listener, limits Limits, refused func(reason string), log *slog.Logger) *Listener {
	const perMinute = 60
	return &Listener{
		Listener: l, limits: limits, refused: refused, log: log, lines: rate.NewLimiter(rate.Every(time.Minute/perMinute), 1), closed: make(chan struct{}),
		strangers: newPool(limits.Strangers, limits.OfHost, limits.OfSite, true),
		local:     newPool(limits.Local, limits.Local, limits.Local, true),
		known:     newPool(limits.Known, limits.Known, limits.Known, false),
	}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	rest := restMin
	for {
		conn, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil, err
		case err != nil:
			l.rest(err, rest)
			rest = min(2*rest, restMax)
			continue
		}
		rest = restMin
		if c := l.admit(conn); c != nil {
			return c, nil
		}
	}
}

// rest waits after an error of the system, and frees a descriptor.
func (l *Listener) rest(err error, d time.Duration) {
	l.refuse(reasonDescriptors)
	if l.lines.Allow() {
		l.log.Error("accepting a connection: is LimitNOFILE of the unit too low?", "address", l.Addr(), "error", err)
	}
	l.mu.Lock()
	c := l.strangers.stalestOfAll(time.Now())
	l.mu.Unlock()
	if c != nil {
		l.displace(c)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.closed:
	}
}

// admit gives a connection a place, or closes it.
func (l *Listener) admit(conn net.Conn) *Conn {
	address := conn.RemoteAddr().String()
	now := time.Now()
	c := &Conn{Conn: conn, listener: l, host: handshake.Host(address), site: siteOf(address), since: now}
	c.bytes.Store(l.limits.StrangerBytes)
	p := l.strangers
	if isLocal(address) {
		p = l.local
	}
	l.mu.Lock()
	evicted, ok := p.admit(c, c.host, now)
	l.mu.Unlock()
	if evicted != nil {
		l.displace(evicted)
	}
	if !ok {
		l.refuse(reasonConnections)
		_ = conn.Close() // nothing was sent yet
		return nil
	}
	return c
}

// displace ends a connection whose place is taken already.
func (l *Listener) displace(c *Conn) {
	l.refuse(reasonDisplaced)
	_ = c.Close() // whoever reads from it learns of it
}

func (l *Listener) refuse(reason string) {
	if l.refused != nil {
		l.refused(reason)
	}
}

func (l *Listener) know(c *Conn, holder string, most int) (evicted *Conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case c.pool == nil:
		return nil, net.ErrClosed
	case c.pool == l.known:
		return nil, nil
	case most > 0 && l.known.count(holder) >= most:
		l.refuse(reasonConnections)
		return nil, ErrFull
	}
	before, host := c.pool, c.holder.name
	before.remove(c)
	evicted, ok := l.known.admit(c, holder, time.Now())
	if ok {
		c.known.Store(true)
		return evicted, nil
	}
	l.refuse(reasonConnections)
	before.admit(c, host, time.Now()) // it was there a moment ago
	return nil, ErrFull
}

// leave takes the place of a connection that ended.
func (l *Listener) leave(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.pool != nil {
		c.pool.remove(c)
	}
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Count returns how many connections of strangers and of those that are known
// there are.
func (l *Listener) Count() (strangers, known int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.strangers.total + l.local.total, l.known.total
}
