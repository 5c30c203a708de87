// Package handshake bounds how many TLS handshakes a server works on at one
// time, so that a flood of them leaves processor time for the connections that
// are there.
package handshake

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

const (
	// hold is how long one handshake may keep its place. The work that it asks
	// for takes a millisecond; whoever then waits for a slow or a hostile client
	// makes room.
	hold = 5 * time.Millisecond
	// patience is how long a handshake waits for a place.
	patience = 10 * time.Second
	// maxWaiting bounds those that wait, of one host and together.
	maxWaitingOfHost, maxWaiting = 2048, 8192
)

// ErrBusy: too many handshakes wait already, or one waited for too long.
var ErrBusy = errors.New("too many handshakes at this moment")

// Gate lets handshakes through, some at a time. Hosts that wait take turns, so
// that a flood from one of them is its own problem first.
type Gate struct {
	mu   sync.Mutex // guards what follows
	free int
	// waiting are the handshakes of each host, the oldest first.
	waiting map[string][]chan struct{}
	// turns are the hosts that wait, in the order of their turns.
	turns []string
	total int
}

// NewGate returns a gate with a place for every second processor.
func NewGate() *Gate {
	return &Gate{free: max(1, runtime.GOMAXPROCS(0)/2), waiting: map[string][]chan struct{}{}}
}

// turns is a connection that is told whose turn it is: while a handshake waits
// for its place, its client has nothing to say.
type turns interface {
	Busy()
	Idle()
}

// Config returns a configuration that waits for a place once the client has
// said hello. config has no GetConfigForClient of its own but next, which may
// be nil.
func (g *Gate) Config(config *tls.Config, next func(*tls.ClientHelloInfo) (*tls.Config, error)) *tls.Config {
	c := config.Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if t, ok := hello.Conn.(turns); ok {
			t.Busy()
			defer t.Idle()
		}
		leave, err := g.enter(hello.Context(), Host(hello.Conn.RemoteAddr().String()))
		if err != nil {
			return nil, err
		}
		time.AfterFunc(hold, leave)
		context.AfterFunc(hello.Context(), leave) // the handshake is over
		if next == nil {
			return nil, nil
		}
		return next(hello)
	}
	return c
}

// bitsOfHost is how much of an IPv6 address is one host's: it has all of a /64.
const bitsOfHost = 64

// Host is what clients with the address, HOST:PORT, are counted by: their IPv4
// address, or the network of their IPv6 address, of which one host has as many
// as it likes.
func Host(address string) string {
	client, err := netip.ParseAddrPort(address)
	if err != nil {
		return address
	}
	ip := client.Addr().Unmap()
	if ip.Is4() {
		return ip.String()
	}
	network, _ := ip.WithZone("").Prefix(bitsOfHost) // fails for IPv4 only
	return network.String()
}

// enter waits for a place. leave gives it back; it may be called often.
func (g *Gate) enter(ctx context.Context, host string) (leave func(), err error) {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return sync.OnceFunc(g.leave), nil
	}
	if g.total >= maxWaiting || len(g.waiting[host]) >= maxWaitingOfHost {
		g.mu.Unlock()
		return nil, ErrBusy
	}
	place := make(chan struct{})
	if len(g.waiting[host]) == 0 {
		g.turns = append(g.turns, host)
	}
	g.waiting[host] = append(g.waiting[host], place)
	g.total++
	g.mu.Unlock()

	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-place:
		return sync.OnceFunc(g.leave), nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout.C:
		err = ErrBusy
	}
	g.abandon(host, place)
	return nil, err
}

// leave hands a place to the next that waits, host by host.
func (g *Gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.turns) == 0 {
		g.free++
		return
	}
	host := g.turns[0]
	g.turns = g.turns[1:]
	queue := g.waiting[host]
	close(queue[0])
	g.total--
	if len(queue) == 1 {
		delete(g.waiting, host)
		return
	}
	g.waiting[host] = queue[1:]
	g.turns = append(g.turns, host)
}

// abandon takes one out that does not wait any more. If it got its place at
// the last moment, the place goes on.
func (g *Gate) abandon(host string, place chan struct{}) {
	g.mu.Lock()
	queue := g.waiting[host]
	for i, p := range queue {
		if p != place {
			continue
		}
		g.total--
		if len(queue) == 1 {
			delete(g.waiting, host)
			g.dropTurn(host)
		} else {
			g.waiting[host] = append(queue[:i:i], queue[i+1:]...)
		}
		g.mu.Unlock()
		return
	}
	g.mu.Unlock()
	g.leave()
}

// dropTurn takes a host out of the turns; the caller holds mu.
func (g *Gate) dropTurn(host string) {
	for i, h := range g.turns {
		if h == host {
			g.turns = append(g.turns[:i:i], g.turns[i+1:]...)
			return
		}
	}
}
