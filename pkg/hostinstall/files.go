package hostinstall

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// file is one that should be on the host.
type file struct {
	path string
	mode fs.FileMode
	// content is what it holds; or else it is a copy of source, a path outside
	// the Host.
	content []byte
	source  string
	// detail says in a few words what changes, where content says too much.
	detail string
}

func (f *file) open() (io.ReadCloser, error) {
	if f.source != "" {
		return os.Open(f.source)
	}
	return io.NopCloser(bytes.NewReader(f.content)), nil
}

var errChanged = errors.New("what should be installed changed meanwhile: run this again")

// verdict is what happens to a file.
type verdict int

const (
	same   verdict = iota // it is as it should be
	create                // there is none
	update                // it is as it was written here, and should change
	edited                // somebody edited it, and nothing new is to be written
	kept                  // somebody else's content is in the way
)

// planned is a file with its verdict.
type planned struct {
	file
	verdict
	sum string
}

// measure compares each file with what the host has, and changes nothing.
func (l *ledger) measure(files []file) ([]planned, error) {
	all := make([]planned, 0, len(files))
	for _, f := range files {
		sum, err := sumOfFile(f)
		if err != nil {
			return nil, fmt.Errorf("reading what to install: %w", err)
		}
		present, err := l.sum(f.path)
		if err != nil {
			return nil, err
		}
		all = append(all, planned{file: f, sum: sum, verdict: l.manifest.decide(f.path, present, sum)})
	}
	return all, nil
}

func sumOfFile(f file) (string, error) {
	r, err := f.open()
	if err != nil {
		return "", err
	}
	defer r.Close()
	return sumOf(r)
}

// decide says what happens to a file: present is the SHA-256 of what the host has,
// empty for nothing.
func (m *manifest) decide(path, present, wanted string) verdict {
	switch {
	case present == "":
		return create
	case present == wanted:
		return same
	case m.ours(path, present):
		return update
	case m.last(path) == wanted:
		return edited
	}
	return kept
}

// wish is what a file would have become, for whoever has to do it by hand.
func (p *planned) wish() string {
	if p.detail != "" || p.source != "" {
		return p.detail + " (" + p.source + ")"
	}
	return ":\n" + string(p.content)
}

// write makes a file what was planned.
func (l *ledger) write(p planned) error {
	if p.verdict != create && p.verdict != update {
		return nil
	}
	if err := l.mkdirAll(filepath.Dir(p.path)); err != nil {
		return err
	}
	l.manifest.Restart = true
	l.manifest.Files[p.path] = append(l.manifest.Files[p.path], p.sum)
	if err := l.save(); err != nil {
		return err
	}
	r, err := p.open()
	if err != nil {
		return fmt.Errorf("reading what to install: %w", err)
	}
	defer r.Close()
	if err := l.host.Put(p.path, &verified{Reader: r, want: p.sum, sum: sha256.New()}, p.mode); err != nil {
		return err
	}
	l.manifest.Files[p.path] = []string{p.sum}
	return l.save()
}

// verified is content that ends with an error unless it is what was planned: a
// file may be changed between two looks at it.
type verified struct {
	io.Reader

	want string
	sum  hash.Hash
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.Reader.Read(p)
	_, _ = v.sum.Write(p[:n]) // a hash never fails
	if errors.Is(err, io.EOF) && hex.EncodeToString(v.sum.Sum(nil)) != v.want {
		return n, errChanged
	}
	return n, err
}

// mkdirAll makes the directories that are missing above and at path, and
// remembers them.
func (l *ledger) mkdirAll(path string) error {
	if _, err := l.host.Lstat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.mkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	l.manifest.Directories = append(l.manifest.Directories, path)
	if err := l.save(); err != nil {
		return err
	}
	return l.host.Mkdir(path, 0o755)
}

// remove removes a file that is as it was written here, and reports whether it
// is gone.
func (l *ledger) remove(path string) (bool, error) {
	present, err := l.sum(path)
	if err != nil {
		return false, err
	}
	if present != "" && !l.manifest.ours(path, present) {
		l.say("keep    %s, which was edited", path)
		return false, nil
	}
	if present != "" {
		l.say("remove  %s", path)
	}
	if err := l.host.Remove(path); err != nil {
		return false, err
	}
	delete(l.manifest.Files, path)
	return true, l.save()
}

// removeDirectories removes what was made here and is empty, the deepest first.
func (l *ledger) removeDirectories() error {
	slices.SortFunc(l.manifest.Directories, func(a, b string) int { return len(b) - len(a) })
	var left []string
	for _, dir := range slices.Compact(l.manifest.Directories) {
		entries, err := l.host.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || len(entries) > 0 {
			left = append(left, dir)
			continue
		}
		if err := l.host.Remove(dir); err != nil {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
	l.manifest.Directories = left
	return nil
}
