package connlimit

import (
	"math/rand/v2"
	"slices"
	"time"
)

// pool is a number of places that holders share. It is not safe for concurrent
// use.
type pool struct {
	max, ofHolder, ofSite int
	// transient: whoever comes gets a place, at the cost of another that has said
	// nothing yet.
	transient bool

	total   int
	holders map[string]*holder
	// list has the same holders: it is what is searched when no place is left.
	list  []*holder
	sites map[string]int
}

// holder is who has connections: a host, or a name that was proved.
type holder struct {
	name  string
	conns []*Conn
	// index is its place in the list.
	index int
}

func newPool(max, ofHolder, ofSite int, transient bool) *pool {
	return &pool{max: max, ofHolder: ofHolder, ofSite: ofSite, transient: transient, holders: map[string]*holder{}, sites: map[string]int{}}
}

// admit gives c a place as one of name's. evicted is the connection that has to
// go for it; ok is false when there is no place.
func (p *pool) admit(c *Conn, name string, now time.Time) (evicted *Conn, ok bool) {
	evicted, ok = p.room(name, c.site, now)
	if !ok {
		return nil, false
	}
	if evicted != nil {
		p.remove(evicted)
	}
	h := p.holders[name]
	if h == nil {
		h = &holder{name: name, index: len(p.list)}
		p.holders[name], p.list = h, append(p.list, h)
	}
	h.conns = append(h.conns, c)
	p.total++
	if c.site != "" {
		p.sites[c.site]++
	}
	c.pool, c.holder = p, h
	return evicted, true
}

// count is how many connections a holder has.
func (p *pool) count(name string) int {
	if h := p.holders[name]; h != nil {
		return len(h.conns)
	}
	return 0
}

// room finds a place for one more of name's.
func (p *pool) room(name, site string, now time.Time) (evict *Conn, ok bool) {
	own := p.count(name)
	switch {
	case own >= p.ofHolder && own > 0:
		evict = p.expendable(p.holders[name].conns, now)
	case site != "" && p.sites[site] >= p.ofSite:
		evict = p.expendable(p.ofNetwork(site), now)
	case p.total < p.max:
		return nil, true
	default:
		if evict = p.largest(own+1, now); evict == nil {
			evict = p.expendable(p.all(), now)
		}
	}
	return evict, evict != nil
}

// expendable is the connection that has to go for another one of its own network:
// the one that has let the server wait for the longest time. While all have come just
// now it is any that has said nothing yet: a silent crowd that comes again and again
// keeps nobody out, as it cannot tell on whom the lot falls. Those that began a
// handshake have cost the server something, and keep their places for a moment.
func (p *pool) expendable(conns []*Conn, now time.Time) *Conn {
	if c := stalest(conns, now.Add(-patience)); c != nil || !p.transient {
		return c
	}
	var found *Conn
	n := 0
	for _, c := range conns {
		if c.spoke {
			continue
		}
		if n++; rand.IntN(n) == 0 {
			found = c
		}
	}
	return found
}

// ofNetwork are the connections of a site.
func (p *pool) ofNetwork(site string) (conns []*Conn) {
	for _, h := range p.list {
		if h.conns[0].site == site {
			conns = append(conns, h.conns...)
		}
	}
	return conns
}

// all are all connections.
func (p *pool) all() (conns []*Conn) {
	for _, h := range p.list {
		conns = append(conns, h.conns...)
	}
	return conns
}

// largest finds a connection of the holder that has the most, if these are more
// than so many: the one that has let the server wait for the longest time, or
// the newest when the server waits for none.
func (p *pool) largest(than int, now time.Time) *Conn {
	var most *holder
	for _, h := range p.list {
		if len(h.conns) > than {
			most, than = h, len(h.conns)
		}
	}
	if most == nil {
		return nil
	}
	if c := stalest(most.conns, now); c != nil {
		return c
	}
	return most.conns[len(most.conns)-1]
}

func (p *pool) stalestOfAll(before time.Time) *Conn {
	var found *Conn
	for _, h := range p.list {
		found = stalest([]*Conn{found, stalest(h.conns, before)}, before)
	}
	return found
}

// stalest is the connection that has let the server wait for the longest time,
// since before a moment at least; nil when there is none.
func stalest(conns []*Conn, before time.Time) *Conn {
	var found *Conn
	for _, c := range conns {
		if c == nil || c.busy > 0 || c.since.After(before) {
			continue
		}
		if found == nil || c.since.Before(found.since) {
			found = c
		}
	}
	return found
}

// remove gives the place of c back.
func (p *pool) remove(c *Conn) {
	h := c.holder
	i := slices.Index(h.conns, c)
	h.conns = slices.Delete(h.conns, i, i+1)
	p.total--
	if c.site != "" {
		if p.sites[c.site]--; p.sites[c.site] == 0 {
			delete(p.sites, c.site)
		}
	}
	c.pool, c.holder = nil, nil
	if len(h.conns) > 0 {
		return
	}
	delete(p.holders, h.name)
	last := p.list[len(p.list)-1]
	last.index, p.list[h.index] = h.index, last
	p.list = p.list[:len(p.list)-1]
}
