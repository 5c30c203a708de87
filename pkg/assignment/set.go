package assignment

import (
	"math/bits"
	"slices"
)

// set is a set of the numbers of devices. It holds two bytes for each member when
// they are few and a bit for each number when they are many, in blocks of 65536
// numbers; a set of one, as of a label that one device has, allocates nothing.
type set struct {
	size   uint32
	only   uint32 // the member of a set of one
	blocks *[]block
}

// block holds the members that have the same upper half.
type block struct {
	upper uint16
	size  int
	// lower are the lower halves, ordered; nil when bits is not.
	lower []uint16
	bits  *[blockSize / 64]uint64
}

const (
	blockSize = 1 << 16
	// Above mostLower members bits are smaller; leastBits keeps a block that is at
	// the limit from being converted to and fro.
	mostLower = blockSize / 16
	leastBits = mostLower / 2
)

func (s *set) len() int { return int(s.size) }

func (s *set) has(n uint32) bool {
	switch {
	case s.size == 0:
		return false
	case s.blocks == nil:
		return s.only == n
	}
	i, found := s.block(n)
	return found && (*s.blocks)[i].has(uint16(n))
}

func (s *set) add(n uint32) {
	switch {
	case s.size == 0:
		s.only = n
	case s.blocks == nil && s.only == n:
		return
	default:
		s.spread()
		if !s.blockFor(n).add(uint16(n)) {
			return
		}
	}
	s.size++
}

func (s *set) remove(n uint32) {
	switch {
	case !s.has(n):
		return
	case s.size == 1:
		*s = set{}
		return
	}
	i, _ := s.block(n)
	b := &(*s.blocks)[i]
	b.remove(uint16(n))
	if b.size == 0 {
		*s.blocks = slices.Delete(*s.blocks, i, i+1)
	}
	s.size--
}

// each calls f with every member, in order. f must not change the set.
func (s *set) each(f func(uint32)) {
	if s.size == 1 && s.blocks == nil {
		f(s.only)
	} else if s.size > 0 {
		for i := range *s.blocks {
			(*s.blocks)[i].each(f)
		}
	}
}

// members returns every member, in order.
func (s *set) members() []uint32 {
	all := make([]uint32, 0, s.size)
	s.each(func(n uint32) { all = append(all, n) })
	return all
}

// spread moves a member that stands by itself into a block.
func (s *set) spread() {
	if s.blocks == nil {
		s.blocks = &[]block{{upper: uint16(s.only >> 16), size: 1, lower: []uint16{uint16(s.only)}}}
	}
}

func (s *set) block(n uint32) (i int, found bool) {
	return slices.BinarySearchFunc(*s.blocks, uint16(n>>16), func(b block, upper uint16) int { return int(b.upper) - int(upper) })
}

func (s *set) blockFor(n uint32) *block {
	i, found := s.block(n)
	if !found {
		*s.blocks = slices.Insert(*s.blocks, i, block{upper: uint16(n >> 16)})
	}
	return &(*s.blocks)[i]
}

func (b *block) has(lower uint16) bool {
	if b.bits != nil {
		return b.bits[lower/64]&(1<<(lower%64)) != 0
	}
	_, found := slices.BinarySearch(b.lower, lower)
	return found
}

// add returns false if the block has the number already.
func (b *block) add(lower uint16) bool {
	if b.bits == nil {
		i, has := slices.BinarySearch(b.lower, lower)
		if has {
			return false
		}
		b.size++
		b.lower = slices.Insert(b.lower, i, lower)
		if b.size > mostLower {
			b.convert()
		}
		return true
	}
	word, bit := &b.bits[lower/64], uint64(1)<<(lower%64)
	if *word&bit != 0 {
		return false
	}
	b.size++
	*word |= bit
	return true
}

// convert makes bits of a list.
func (b *block) convert() {
	b.bits = &[blockSize / 64]uint64{}
	for _, l := range b.lower {
		b.bits[l/64] |= 1 << (l % 64)
	}
	b.lower = nil
}

// remove removes what the block has.
func (b *block) remove(lower uint16) {
	b.size--
	if b.bits == nil {
		i, _ := slices.BinarySearch(b.lower, lower)
		b.lower = slices.Delete(b.lower, i, i+1)
		return
	}
	b.bits[lower/64] &^= 1 << (lower % 64)
	if b.size < leastBits {
		few := make([]uint16, 0, b.size)
		b.each(func(n uint32) { few = append(few, uint16(n)) })
		b.lower, b.bits = few, nil
	}
}

func (b *block) each(f func(uint32)) {
	upper := uint32(b.upper) << 16
	for _, l := range b.lower {
		f(upper | uint32(l))
	}
	if b.bits == nil {
		return
	}
	for i, word := range b.bits {
		for ; word != 0; word &= word - 1 {
			f(upper | uint32(i*64+bits.TrailingZeros64(word)))
		}
	}
}
