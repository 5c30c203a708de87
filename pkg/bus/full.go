package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoRoom: there is no room on the disk for a write. Reads go on.
var ErrNoRoom = errors.New("the bus has no room")

// ErrStuck: a bucket takes no writes any more, though there is room again. JetStream does
// not try again after it met a full disk, until it starts anew.
var ErrStuck = errors.New("the bucket takes no writes since the disk was full")

// Free space in bytes below which nothing is put into buckets, and nothing removed from
// them: a marker is small, and removals make room elsewhere.
const (
	putReserve    = 2 << 20
	markerReserve = 256 << 10
)

// clearlyFree is so much free space that the disk does not count as full any more,
// whatever LastFull takes for it: on one that stays nearly full, a write that is slow
// once would look like one that is stuck.
const clearlyFree = 16 << 20

// Disk is the file system that the buckets are on.
type Disk interface {
	// Room returns nil if so many bytes are free at this moment, else an error that says
	// how many are.
	Room(bytes int64) error
	// LastFull is when there was seen to be none for the last time.
	LastFull() time.Time
}

// Bound keeps the buckets from meeting a full disk, as far as possible: what is written
// while there is no room fails at once with ErrNoRoom, instead of after its time with a
// bucket that is of no use. It comes before anything is written.
func (b *Buckets) Bound(disk Disk) {
	b.stuck = make(chan error, 1)
	for _, kv := range []*jetstream.KeyValue{&b.DesiredState, &b.Info, &b.State} {
		*kv = &bounded{KeyValue: *kv, disk: disk, stuck: b.stuck, written: time.Now()}
	}
}

// Stuck gets an error that wraps ErrStuck when a bucket takes no writes any more. It is nil
// for buckets that are not bounded.
func (b *Buckets) Stuck() <-chan error { return b.stuck }

// bounded is a bucket on a disk.
type bounded struct {
	jetstream.KeyValue

	disk  Disk
	stuck chan<- error

	mu sync.Mutex // guards written
	// written is when a write succeeded for the last time.
	written time.Time
}

// Put implements jetstream.KeyValue.
func (b *bounded) Put(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	err = b.write(putReserve, func() (err error) { revision, err = b.KeyValue.Put(ctx, key, value); return err })
	return revision, err
}

// Purge implements jetstream.KeyValue. It writes a marker.
func (b *bounded) Purge(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	return b.write(markerReserve, func() error { return b.KeyValue.Purge(ctx, key, opts...) })
}

func (b *bounded) write(needs int64, write func() error) error {
	if err := b.disk.Room(needs); err != nil {
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	began := time.Now()
	err := write()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		if began.After(b.written) {
			b.written = began
		}
		return nil
	}
	// JetStream does not answer a write that it could not make. Without a full disk since
	// the last one, it may be slow as well.
	if errors.Is(err, context.DeadlineExceeded) && b.disk.LastFull().After(b.written) && b.disk.Room(clearlyFree) == nil {
		select {
		case b.stuck <- fmt.Errorf("bucket %s: %w", b.Bucket(), ErrStuck):
		default: // it is known
		}
	}
	return err
}
