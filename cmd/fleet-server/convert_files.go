package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"fleet.nationtech.io/fleet/pkg/convert"
)

// textFiles reads files beside a compose file. A link that leads out of its directory is none.
type textFiles struct{ dir string }

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
	return convert.File{Content: string(data), Executable: err == nil && info.Mode()&0o100 != 0}, err == nil
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

// maxFiles bounds what is looked at of a directory.
const maxFiles = 1000

func (t textFiles) Directory(path string) (map[string]convert.File, bool) {
	real, ok := t.follow(path)
	if info, err := os.Stat(real); !ok || err != nil || !info.IsDir() {
		return nil, false
	}
	files, size, seen := map[string]convert.File{}, 0, 0
	err := filepath.WalkDir(real, func(path string, d fs.DirEntry, err error) error {
		if seen++; err == nil && seen > maxFiles {
			return errNoText
		}
		if err != nil || d.IsDir() {
			return err
		}
		f, ok := t.Text(path)
		if size += len(f.Content); !ok || size > convert.MaxConfigMap {
			return errNoText
		}
		rel, err := filepath.Rel(real, path)
		files[filepath.ToSlash(rel)] = f
		return err
	})
	return files, err == nil
}
