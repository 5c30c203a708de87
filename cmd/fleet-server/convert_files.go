package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// textFiles reads files beside a compose file. A link that leads out of its directory is none.
type textFiles struct {
	dir string
	// places are directories of this machine, see Here.
	places []string
	// texts are the files of the project.
	texts [][]byte
}

// placesOfThisMachine are the directories in which paths lie that a project means by its own
// place (../data), by that of whoever uses it ($PWD/data), or by a home (~/data).
func placesOfThisMachine(dir string) (places []string) {
	home, _ := os.UserHomeDir()
	here, _ := os.Getwd()
	for _, place := range []string{filepath.Dir(dir), home, here} {
		if filepath.IsAbs(place) && place != string(filepath.Separator) {
			places = append(places, place)
		}
	}
	return places
}

// Here implements convert.Files. A path that a file has as it is was meant for devices.
func (t textFiles) Here(path string) bool {
	in := func(place string) bool {
		return path == place || strings.HasPrefix(path, place+string(filepath.Separator))
	}
	return slices.ContainsFunc(t.places, in) && !slices.ContainsFunc(t.texts, func(text []byte) bool { return bytes.Contains(text, []byte(path)) })
}

func (t textFiles) Text(path string) (f convert.File, ok bool) {
	real, ok := t.follow(path)
	if !ok {
		return f, false
	}
	data, err := readBounded(real, convert.MaxConfigMap)
	if err != nil || !utf8.Valid(data) || bytes.ContainsRune(data, 0) {
		return f, false
	}
	info, err := os.Stat(real)
	return convert.File{Content: string(data), Executable: err == nil && info.Mode()&0o100 != 0, Hidden: t.hides(path) || t.hides(real)}, err == nil
}

// hides reports whether the way from the compose file to something beside it is by a name
// that begins with a dot.
func (t textFiles) hides(path string) bool {
	for _, dir := range []string{t.dir, t.real()} {
		if rel, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rel) {
			return rel != "." && slices.ContainsFunc(strings.Split(rel, string(filepath.Separator)), isHidden)
		}
	}
	return true // it is not beside the file
}

func isHidden(name string) bool { return strings.HasPrefix(name, ".") }

// real is the directory without links.
func (t textFiles) real() string {
	dir, err := filepath.EvalSymlinks(t.dir)
	if err != nil {
		return t.dir
	}
	return dir
}

// follow returns the real path of something beside the compose file.
func (t textFiles) follow(path string) (real string, ok bool) {
	dir, err := filepath.EvalSymlinks(t.dir)
	real, err2 := filepath.EvalSymlinks(path)
	if err = errors.Join(err, err2); err != nil || !strings.HasPrefix(real, dir+string(filepath.Separator)) {
		return "", false
	}
	return real, true
}

var errNoText = errors.New("not all is text, or there is too much")

const (
	// maxFiles bounds what is looked at of a directory, maxDepth the directories in each other.
	maxFiles, maxDepth = 1000, 16
)

func (t textFiles) Directory(path string) (convert.Directory, bool) {
	real, ok := t.follow(path)
	if info, err := os.Stat(real); !ok || err != nil || !info.IsDir() {
		return convert.Directory{}, false
	}
	w := walk{textFiles: t, root: real, asked: t.hides(path) || t.hides(real)}
	w.found.Files = map[string]convert.File{}
	err := w.directory(real, maxDepth)
	slices.Sort(w.found.Hidden)
	return w.found, err == nil
}

// walk reads a directory.
type walk struct {
	textFiles

	root string
	// asked: the directory is hidden itself, and named all the same.
	asked      bool
	found      convert.Directory
	seen, size int
}

// directory reads a directory, and those in it to a depth. It lists no more of it than it may
// look at.
func (w *walk) directory(path string, depth int) error {
	dir, err := os.Open(path) //nolint:gosec // it is beside the compose file, which the user names
	if err != nil {
		return err
	}
	entries, err := dir.ReadDir(maxFiles + 1 - w.seen)
	_ = dir.Close() // it was only read
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if w.seen += len(entries); w.seen > maxFiles || depth == 0 {
		return errNoText
	}
	for _, e := range entries {
		if err := w.entry(filepath.Join(path, e.Name()), e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(path string, e os.DirEntry, depth int) error {
	rel, err := filepath.Rel(w.root, path)
	if err != nil {
		return err
	}
	rel = filepath.ToSlash(rel)
	if isHidden(e.Name()) {
		w.found.Hidden = append(w.found.Hidden, rel)
		return nil
	}
	if e.IsDir() {
		return w.directory(path, depth-1)
	}
	f, ok := w.Text(path)
	if w.size += len(f.Content); !ok || w.size > convert.MaxConfigMap {
		return errNoText
	}
	if f.Hidden && !w.asked { // by a link
		w.found.Hidden = append(w.found.Hidden, rel)
		return nil
	}
	w.found.Files[rel] = f
	return nil
}
