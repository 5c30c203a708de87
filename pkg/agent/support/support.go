// Package support writes what somebody needs who helps with a device from afar: an archive
// of texts about it, from which secrets were taken, bounded in size and in time. What to
// put in is the caller's.
package support

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

const (
	// maxEntry bounds a file of the archive, and maxAll all of them, in bytes.
	maxEntry, maxAll = 4 << 20, 32 << 20
	// within bounds how long an entry takes that says nothing else.
	within = 30 * time.Second
	// root is the directory that the files of the archive are in.
	root = "fleet-support"
	// mode is that of the files.
	mode = 0o600
)

// errLate: what an entry is about did not answer in time.
var errLate = errors.New("it did not come in time")

// Entry is a file of the archive.
type Entry struct {
	// Name is a path below the archive's directory, About what the file is.
	Name, About string
	// Within bounds how long Read takes; zero for half a minute.
	Within time.Duration
	// Read returns the content. One that does not return in time is left behind.
	Read func(ctx context.Context) ([]byte, error)
}

// Archive is what is written.
type Archive struct {
	Entries []Entry
	// Notes are lines for whoever reads the archive.
	Notes []string
	Scrub *Scrubber
	// Now dates the files.
	Now time.Time

	// entry and all are maxEntry and maxAll outside of tests.
	entry, all int
}

// Write writes the archive as tar.gz. What cannot be had is named in its README and
// returned; err is about out alone, or that ctx ended.
func (a Archive) Write(ctx context.Context, out io.Writer) (missing []string, err error) {
	compressed := gzip.NewWriter(out)
	w := tar.NewWriter(compressed)
	var list strings.Builder
	left, limit := cmp.Or(a.all, maxAll), cmp.Or(a.entry, maxEntry)
	for _, e := range a.Entries {
		content, err := read(ctx, e)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			line := fmt.Sprintf("%s: %s", e.Name, a.Scrub.Scrub([]byte(err.Error())))
			missing = append(missing, line)
			fmt.Fprintf(&list, "%-24s MISSING: %s\n", e.Name, strings.TrimPrefix(line, e.Name+": "))
			continue
		}
		content, note := bound(a.Scrub.Scrub(content), min(left, limit))
		left -= len(content)
		fmt.Fprintf(&list, "%-24s %s%s\n", e.Name, e.About, note)
		if err := a.add(w, e.Name, content); err != nil {
			return nil, err
		}
	}
	for _, n := range a.Notes {
		fmt.Fprintf(&list, "\n%s\n", n)
	}
	err = a.add(w, "README.txt", []byte(list.String()))
	return missing, errors.Join(err, w.Close(), compressed.Close())
}

// read reads an entry in its time.
func read(ctx context.Context, e Entry) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.Within, within))
	defer cancel()
	type result struct {
		content []byte
		err     error
	}
	done := make(chan result, 1)
	go func() {
		content, err := e.Read(ctx)
		done <- result{content, err}
	}()
	select {
	case r := <-done:
		return r.content, r.err
	case <-ctx.Done():
		return nil, errLate
	}
}

// bound keeps the end of a content that is too long: there is what is new.
func bound(content []byte, limit int) (kept []byte, note string) {
	if len(content) <= limit {
		return content, ""
	}
	return content[len(content)-limit:], fmt.Sprintf("; the last %d of %d bytes", limit, len(content))
}

func (a Archive) add(w *tar.Writer, name string, content []byte) error {
	header := &tar.Header{Name: path.Join(root, name), Mode: mode, Size: int64(len(content)), ModTime: a.Now, Typeflag: tar.TypeReg}
	if err := w.WriteHeader(header); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	if _, err := w.Write(content); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}
