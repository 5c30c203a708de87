package rollout

import "time"

// queue holds what falls due after the same span of time for all: the first one in is the
// first one due.
type queue struct {
	entries []entry
	head    int
}

// entry names a device of which something was true from a time on.
type entry struct {
	at           time.Duration
	device, life uint32
}

func (q *queue) push(e entry) {
	if q.head > len(q.entries)/2 {
		q.entries = append(q.entries[:0], q.entries[q.head:]...)
		q.head = 0
	}
	q.entries = append(q.entries, e)
}

func (q *queue) first() (e entry, some bool) {
	if q.head == len(q.entries) {
		return entry{}, false
	}
	return q.entries[q.head], true
}

func (q *queue) pop() {
	if q.head++; q.head == len(q.entries) {
		q.entries, q.head = q.entries[:0], 0
	}
}
