package datastore

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// reserve is the free space below which a disk counts as full: SQLite's log grows
	// to 4 MiB before it is written into the database, and the bus needs some too.
	reserve = 8 << 20
	// spaceAge is for how long the free space is taken for the present one.
	spaceAge = 500 * time.Millisecond
)

// ErrFull: there is no room for a write. Reads go on.
var ErrFull = errors.New("the disk is full")

// disk is the file system of the data directory.
type disk struct {
	dir    string
	logger *slog.Logger

	mu    sync.Mutex // guards what follows
	asked time.Time
	space Space
	full  bool
	// wasFull is when it was seen to be full for the last time.
	wasFull time.Time
}

// Space is what a file system has, in bytes.
type Space struct{ Free, Total int64 }

// check returns ErrFull, with numbers, while there is no room for a write. The log
// tells when that begins and ends.
func (d *disk) check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.Sub(d.asked) >= spaceAge {
		d.ask(now)
	}
	if !d.full {
		return nil
	}
	return d.err("the API store", reserve)
}

// room is check for other writes than those of the API store, which need less. It asks
// the disk each time: what meets a full disk may be of no use afterwards.
func (d *disk) room(what string, need int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ask(time.Now()); d.space.Free >= need || d.asked.IsZero() {
		return nil
	}
	return d.err(what, need)
}

// lastFull is when the disk was seen to be full for the last time.
func (d *disk) lastFull() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wasFull
}

// Space returns what there is now.
func (d *disk) now() Space {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ask(time.Now())
	return d.space
}

func (d *disk) ask(now time.Time) {
	space, err := spaceOf(d.dir)
	if err != nil {
		return // whatever is wrong, SQLite will say it
	}
	d.asked, d.space = now, space
	full := d.space.Free < reserve
	switch {
	case full && !d.full:
		d.logger.Error("the disk is full: writes are refused until there is room", "directory", d.dir, "free_bytes", d.space.Free, "total_bytes", d.space.Total, "needed_bytes", reserve)
	case !full && d.full:
		d.logger.Info("the disk has room again", "directory", d.dir, "free_bytes", d.space.Free, "total_bytes", d.space.Total)
	}
	if d.full = full; full {
		d.wasFull = now
	}
}

// spaceOf is what the file system of a directory has.
func spaceOf(dir string) (Space, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return Space{}, err
	}
	return Space{Free: int64(stat.Bavail) * int64(stat.Bsize), Total: int64(stat.Blocks) * int64(stat.Bsize)}, nil
}

func (d *disk) err(what string, need int64) error {
	return fmt.Errorf("%w: %s has no space left for %s: %.1f of %.1f MiB are free, and writes need %.2g MiB: free some space, and the server goes on by itself",
		ErrFull, d.dir, what, float64(d.space.Free)/(1<<20), float64(d.space.Total)/(1<<20), float64(need)/(1<<20))
}

// explainWrite says why SQLite could not write, as etcd's protocol does. The driver
// differs between builds, so the text is all there is to go by.
func explainWrite(err error, full func() error) error {
	if known := full(); known != nil {
		return status.Error(codes.ResourceExhausted, known.Error())
	}
	if strings.Contains(err.Error(), "disk is full") {
		return status.Error(codes.ResourceExhausted, fmt.Sprintf("%v: %v", ErrFull, err))
	}
	return err
}
