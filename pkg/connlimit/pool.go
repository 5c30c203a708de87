package connlimit

import (
	"slices"
	"time"
)

// pool is a number of places that holders share. It is not safe for concurrent
// use.
type pool struct {
	max, ofHolder, ofSite int

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

func newPool(max, ofHolder, ofSite int) *pool {
	return &pool{max: max, ofHolder: ofHolder, ofSite: ofSite, holders: map[string]*holder{}, sites: map[string]int{}}
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
	if own >= p.ofHolder && own > 0 {
		evict = stalest(p.holders[name].conns, now.Add(-patience))
		return evict, evict != nil
	}
	if site != "" && p.sites[site] >= p.ofSite {
		evict = p.stalestOfSite(site, now.Add(-patience))
		return evict, evict != nil
	}
	if p.total < p.max {
		return nil, true
	}
	if evict = p.largest(own+1, now); evict == nil {
		evict = p.stalestOfAll(now.Add(-patience))
	}
	return evict, evict != nil
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

func (p *pool) stalestOfSite(site string, before time.Time) *Conn {
	var found []*Conn
	for _, h := range p.list {
		if h.conns[0].site == site {
			found = append(found, stalest(h.conns, before))
		}
	}
	return stalest(found, before)
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
