package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	// maxAttempts bounds the attempts of a fetch in a row that bring nothing, and patience is
	// the time before the second; it doubles.
	maxAttempts = 5
	patience    = time.Second
	// stride is how much room is made at a time, in bytes.
	stride = 16 << 20
	// piece is how much is read at a time, in bytes.
	piece = 64 << 10
)

// errContent: what came is not what was asked for.
var errContent = fmt.Errorf("%w: it sends another content than the digest says", ErrUnavailable)

// fetch brings one blob into a file, from which any number of readers read meanwhile.
type fetch struct {
	size   int64
	want   string
	file   *os.File
	cancel context.CancelFunc
	// room makes room for so many bytes more. It is asked for as they come: a registry that
	// only promises something has nothing else removed for it.
	room func(size int64) error

	mu sync.Mutex // guards what follows
	// written is how much is in the file, given how much it has been given room for; changed is
	// closed when written, or ended, changes.
	written, given int64
	ended          bool
	err            error
	changed        chan struct{}
	// readers is how many read. When the last one left, nobody else may come.
	readers int
	left    bool

	// finished is closed at its end.
	finished chan struct{}
}

func newFetch(d v1.Descriptor, file *os.File, cancel context.CancelFunc) *fetch {
	return &fetch{size: d.Size, want: d.Digest.Hex, file: file, cancel: cancel, changed: make(chan struct{}), finished: make(chan struct{})}
}

// opener opens a blob at an offset, or before it: it returns where.
type opener func(ctx context.Context, offset int64) (content io.ReadCloser, begins int64, err error)

// run fetches what the file does not have yet, and returns nil when the whole is right and
// on the disk.
func (f *fetch) run(ctx context.Context, open opener) error {
	hash := sha256.New()
	have, err := io.Copy(hash, io.LimitReader(f.file, f.size))
	if err != nil {
		return fmt.Errorf("reading what was fetched before: %w", err)
	}
	f.advance(have)
	attempt := 0
	for have < f.size {
		n, err := f.more(ctx, open, have, hash)
		if have += n; n > 0 {
			attempt = 0
		}
		if have == f.size {
			break
		}
		if attempt++; attempt >= maxAttempts || ctx.Err() != nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrSpace) {
			return err
		}
		if err := sleep(ctx, patience<<(attempt-1)); err != nil {
			return err
		}
	}
	if hex.EncodeToString(hash.Sum(nil)) != f.want {
		return errContent
	}
	return f.file.Sync()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// more makes one attempt, and returns how much it brought.
func (f *fetch) more(ctx context.Context, open opener, have int64, hash io.Writer) (brought int64, err error) {
	content, begins, err := open(ctx, have)
	if err != nil {
		return 0, err
	}
	defer content.Close()
	if _, err := io.CopyN(io.Discard, content, have-begins); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	buffer := make([]byte, piece)
	for have+brought < f.size {
		n, err := content.Read(buffer[:min(piece, f.size-have-brought)])
		if n > 0 {
			if err := f.makeRoom(have + brought + int64(n)); err != nil {
				return brought, err
			}
			if _, err := f.file.WriteAt(buffer[:n], have+brought); err != nil {
				return brought, fmt.Errorf("%w: %w", ErrSpace, err)
			}
			_, _ = hash.Write(buffer[:n]) // never fails
			brought += int64(n)
			f.advance(have + brought)
		}
		if err != nil && have+brought < f.size {
			return brought, fmt.Errorf("%w: it ended after %d of %d bytes: %w", ErrUnavailable, have+brought, f.size, err)
		}
	}
	return brought, nil
}

func (f *fetch) advance(written int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written = written
	f.tell()
}

// tell must be called with mu held.
func (f *fetch) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// end lets readers have the rest, or the error.
func (f *fetch) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended, f.err = true, err
	f.tell()
	if f.readers == 0 {
		_ = f.file.Close() // what counts was synced
	}
	close(f.finished)
}

// reader returns a reader from an offset on, which ends when ctx ends, and false when the
// fetch is given up.
func (f *fetch) reader(ctx context.Context, from int64) (r io.ReadCloser, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left {
		return nil, false
	}
	f.readers++
	return &fetchReader{fetch: f, ctx: ctx, offset: from}, true
}

// makeRoom makes room for the file to become so long, and a stride longer.
func (f *fetch) makeRoom(size int64) error {
	f.mu.Lock()
	given := max(f.given, f.written)
	f.mu.Unlock()
	if size <= given {
		return nil
	}
	more := min(size-given+stride, f.size-given)
	if err := f.room(more); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.given = given + more
	return nil
}

// coming is how much more it has been given room for.
func (f *fetch) coming() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(0, f.given-f.written)
}

// leave is called once by each reader. The last one ends the fetch.
func (f *fetch) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers--; f.readers > 0 {
		return
	}
	f.left = true
	if f.ended {
		_ = f.file.Close()
	} else {
		f.cancel()
	}
}

type fetchReader struct {
	*fetch

	ctx    context.Context //nolint:containedctx // that of the request that reads
	offset int64
	closed sync.Once
}

// Read implements io.Reader.
func (r *fetchReader) Read(p []byte) (int, error) {
	for {
		available, changed, err := r.available()
		if err != nil {
			return 0, err
		}
		if r.offset >= r.size {
			return 0, io.EOF
		}
		if available > r.offset {
			n, err := r.file.ReadAt(p[:min(int64(len(p)), available-r.offset)], r.offset)
			if r.offset += int64(n); n > 0 {
				return n, nil
			}
			return 0, err
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

// available is how much of the file may be given away: all but the last byte until the
// whole is known to be right.
func (r *fetchReader) available() (int64, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ended && r.err != nil:
		return 0, nil, r.err
	case r.ended:
		return r.size, r.changed, nil
	}
	return min(r.written, r.size-1), r.changed, nil
}

// Close implements io.Closer.
func (r *fetchReader) Close() error {
	r.closed.Do(r.leave)
	return nil
}
