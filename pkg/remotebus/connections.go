package remotebus

import (
	"sync"
	"time"
)

// place is where NATS has a connection.
type place struct {
	// server is the id of the server of a cluster, cid its number of the connection.
	server string
	cid    uint64
}

// connections numbers those that the gate was told of.
type connections struct {
	mu sync.Mutex // guards what follows
	// last is the last number. They begin with the time: a gate may have those of an earlier
	// bus yet.
	last    uint64
	numbers map[place]uint64
	places  map[uint64]entry
}

type entry struct {
	place
	// since is when it was let in, begun when NATS told that it begins: a client that gave up
	// meanwhile never does.
	since, begun time.Time
}

func newConnections() *connections {
	return &connections{last: uint64(time.Now().UnixNano()), numbers: map[place]uint64{}, places: map[uint64]entry{}}
}

// add numbers a connection.
func (c *connections) add(p place, now time.Time) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, known := c.numbers[p]; known {
		return n
	}
	c.last++
	c.numbers[p], c.places[c.last] = c.last, entry{place: p, since: now}
	return c.last
}

// begin notes that NATS has told of a connection.
func (c *connections) begin(p place, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, known := c.numbers[p]; known {
		e := c.places[n]
		e.begun = now
		c.places[n] = e
	}
}

// end forgets a connection.
func (c *connections) end(p place) (n uint64, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, known = c.numbers[p]; known {
		delete(c.numbers, p)
		delete(c.places, n)
	}
	return n, known
}

// of is where a connection is.
func (c *connections) of(n uint64) (place, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known := c.places[n]
	return e.place, known
}

// patience is how long NATS may take to tell that a connection begins that was let in.
const patience = time.Minute

// lost are the connections that are not among those that NATS had when it was asked, and
// should be.
func (c *connections) lost(there map[place]bool, asked time.Time) (lost []place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.places {
		due := !e.begun.IsZero() && e.begun.Before(asked) || e.since.Before(asked.Add(-patience))
		if due && !there[e.place] {
			lost = append(lost, e.place)
		}
	}
	return lost
}

// strangers are the connections that NATS has and that nobody let in here.
func (c *connections) strangers(there map[place]bool) (strangers []place) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range there {
		if _, known := c.numbers[p]; !known {
			strangers = append(strangers, p)
		}
	}
	return strangers
}
