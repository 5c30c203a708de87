package assignment

// pool stores a value that many share once and names it by a number. A value is
// kept while somebody holds it. 0 names the zero value, which nobody needs to hold.
type pool[V comparable] struct {
	numbers map[V]uint32
	slots   []slot[V]
	free    []uint32
}

type slot[V comparable] struct {
	value   V
	holders uint64
}

func newPool[V comparable]() pool[V] {
	return pool[V]{numbers: map[V]uint32{}, slots: make([]slot[V], 1)}
}

// number returns the number of a value and holds it.
func (p *pool[V]) number(v V) uint32 {
	var zero V
	if v == zero {
		return 0
	}
	n, known := p.numbers[v]
	switch {
	case known:
	case len(p.free) > 0:
		n = p.free[len(p.free)-1]
		p.free = p.free[:len(p.free)-1]
		p.slots[n].value, p.numbers[v] = v, n
	default:
		n = uint32(len(p.slots))
		p.slots = append(p.slots, slot[V]{value: v})
		p.numbers[v] = n
	}
	p.hold(n)
	return n
}

func (p *pool[V]) value(n uint32) *V { return &p.slots[n].value }

func (p *pool[V]) hold(n uint32) {
	if n != 0 {
		p.slots[n].holders++
	}
}

func (p *pool[V]) release(n uint32) {
	if n == 0 {
		return
	}
	s := &p.slots[n]
	if s.holders--; s.holders == 0 {
		delete(p.numbers, s.value)
		*s = slot[V]{}
		p.free = append(p.free, n)
	}
}

// roll gives numbers to records and finds a record by its number.
type roll[T any] struct {
	records []*T
	free    []uint32
}

func (r *roll[T]) add(record *T) (number uint32) {
	if last := len(r.free) - 1; last >= 0 {
		number, r.free = r.free[last], r.free[:last]
		r.records[number] = record
		return number
	}
	r.records = append(r.records, record)
	return uint32(len(r.records) - 1)
}

func (r *roll[T]) remove(number uint32) {
	r.records[number] = nil
	r.free = append(r.free, number)
}

func (r *roll[T]) at(number uint32) *T { return r.records[number] }
