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

// plan decides about each file, and changes nothing.
func (in *Installer) plan(files []file) ([]planned, error) {
	plans := make([]planned, 0, len(files))
	for _, f := range files {
		p, err := in.decide(f)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	return plans, nil
}

func (in *Installer) decide(f file) (planned, error) {
	p := planned{file: f}
	r, err := f.open()
	if err != nil {
		return p, fmt.Errorf("reading what to install: %w", err)
	}
	defer r.Close()
	if p.sum, err = sumOf(r); err != nil {
		return p, fmt.Errorf("reading what to install: %w", err)
	}
	present, err := in.sum(f.path)
	if err != nil {
		return p, err
	}
	switch {
	case present == "":
		p.verdict = create
	case present == p.sum:
		p.verdict = same
	case in.manifest.ours(f.path, present):
		p.verdict = update
	case in.manifest.last(f.path) == p.sum:
		p.verdict = edited
	default:
		p.verdict = kept
	}
	return p, nil
}

// show prints what is about to happen.
func (in *Installer) show(plans []planned) {
	for _, p := range plans {
		switch p.verdict {
		case create:
			in.say("create  %s%s", p.path, p.detail)
		case update:
			in.say("change  %s%s", p.path, p.detail)
		case edited:
			in.say("keep    %s, which was edited", p.path)
		case kept:
			in.say("KEEP    %s, which is not as it was installed; it should become%s", p.path, p.wish())
		}
	}
}

// wish is what a file would have become, for whoever has to do it by hand.
func (p *planned) wish() string {
	if p.detail != "" || p.source != "" {
		return p.detail + " (" + p.source + ")"
	}
	return ":\n" + string(p.content)
}

// verdictError says that a plan could not be carried out in full.
func verdictError(plans []planned) error {
	if slices.ContainsFunc(plans, func(p planned) bool { return p.verdict == kept }) {
		return ErrKept
	}
	return nil
}

// write carries a plan out.
func (in *Installer) write(plans []planned) error {
	for _, p := range plans {
		if p.verdict != create && p.verdict != update {
			continue
		}
		if err := in.writeOne(p); err != nil {
			return err
		}
	}
	return nil
}

func (in *Installer) writeOne(p planned) error {
	if err := in.mkdirAll(filepath.Dir(p.path)); err != nil {
		return err
	}
	in.manifest.Restart = true
	in.manifest.Files[p.path] = append(in.manifest.Files[p.path], p.sum)
	if err := in.save(); err != nil {
		return err
	}
	r, err := p.open()
	if err != nil {
		return fmt.Errorf("reading what to install: %w", err)
	}
	defer r.Close()
	if err := in.Host.Put(p.path, &verified{Reader: r, want: p.sum, sum: sha256.New()}, p.mode); err != nil {
		return err
	}
	in.manifest.Files[p.path] = []string{p.sum}
	return in.save()
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
func (in *Installer) mkdirAll(path string) error {
	if _, err := in.Host.Lstat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := in.mkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	in.manifest.Directories = append(in.manifest.Directories, path)
	if err := in.save(); err != nil {
		return err
	}
	return in.Host.Mkdir(path, 0o755)
}

// remove removes a file that is as it was written here, and reports whether it
// is gone.
func (in *Installer) remove(path string) (bool, error) {
	present, err := in.sum(path)
	if err != nil {
		return false, err
	}
	if present != "" && !in.manifest.ours(path, present) {
		in.say("keep    %s, which was edited", path)
		return false, nil
	}
	if present != "" {
		in.say("remove  %s", path)
	}
	if err := in.Host.Remove(path); err != nil {
		return false, err
	}
	delete(in.manifest.Files, path)
	return true, in.save()
}

// removeDirectories removes what was made here and is empty, the deepest first.
func (in *Installer) removeDirectories() error {
	slices.SortFunc(in.manifest.Directories, func(a, b string) int { return len(b) - len(a) })
	var left []string
	for _, dir := range slices.Compact(in.manifest.Directories) {
		entries, err := in.Host.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || len(entries) > 0 {
			left = append(left, dir)
			continue
		}
		if err := in.Host.Remove(dir); err != nil {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
	in.manifest.Directories = left
	return nil
}
