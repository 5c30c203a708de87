package containertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// Signal implements container.Runtime.
func (f *Fake) Signal(_ context.Context, id string, signal syscall.Signal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; f.down == nil && c != nil && c.State == container.StateRunning {
		f.record("signal %s %d", c.Name, signal)
	}
	return f.down
}

// errFiles: the fake keeps files in volumes alone.
var errFiles = errors.New("no volume is there")

// Unpack implements container.Runtime.
func (f *Fake) Unpack(_ context.Context, id, directory string, archive []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	volume, below, err := f.find(id, directory)
	if err != nil {
		return err
	}
	if f.containers[id].State == container.StateRunning {
		return fmt.Errorf("%s runs", f.containers[id].Name)
	}
	v := f.volumes[volume]
	if v.files == nil {
		v.files = map[string]string{}
	}
	f.record("unpack %s", f.containers[id].Name)
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			f.volumes[volume] = v
			return nil
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		switch at := path.Join(below, h.Name); h.Typeflag {
		case tar.TypeReg:
			v.files[at] = string(content)
		case tar.TypeSymlink:
			v.files[at] = linkMark + h.Linkname
		}
	}
}

// linkMark begins what the fake keeps of a link.
const linkMark = "\x00link to "

// find returns the volume that a container has at a path, and what of the path is below it.
func (f *Fake) find(id, at string) (volume, below string, err error) {
	c := f.containers[id]
	switch {
	case f.down != nil:
		return "", "", f.down
	case c == nil:
		return "", "", container.ErrNotFound
	}
	for _, m := range c.Volumes {
		if rest, inside := strings.CutPrefix(at, m.Path); inside && (rest == "" || rest[0] == '/') {
			return m.Volume, strings.TrimPrefix(rest, "/"), nil
		}
	}
	return "", "", fmt.Errorf("%s: %w", at, errFiles)
}

// ReadFile implements container.Runtime. It follows the links of names, but for the last.
func (f *Fake) ReadFile(_ context.Context, id, at string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	volume, below, err := f.find(id, at)
	if err != nil {
		return nil, err
	}
	content, there := f.read(volume, below)
	if !there {
		return nil, fmt.Errorf("%s: %w", at, container.ErrNotFound)
	}
	return []byte(content), nil
}

func (f *Fake) read(volume, at string) (content string, there bool) {
	files := f.volumes[volume].files
	for range 8 {
		if content, there = files[at]; there && !strings.HasPrefix(content, linkMark) {
			return content, true
		}
		changed := false
		for name, target := range files {
			to, link := strings.CutPrefix(target, linkMark)
			if rest, inside := strings.CutPrefix(at, name); link && inside && (rest == "" || rest[0] == '/') {
				at, changed = path.Join(path.Dir(name), to)+rest, true
				break
			}
		}
		if !changed {
			return "", false
		}
	}
	return "", false
}

// Files returns what is in a volume, links included, by name.
func (f *Fake) Files(volume string) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.volumes[volume].files)
}
