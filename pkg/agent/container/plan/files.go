package plan

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// dirs adds the files of Secrets that lie beside others: each is one of the runtime's.
func (f *filler) dirs() error {
	for _, dir := range slices.Sorted(maps.Keys(f.use.Dirs)) {
		secret := f.use.Dirs[dir]
		for _, key := range slices.Sorted(maps.Keys(f.contents.Objects[secret])) {
			if err := f.file(path.Join(dir, key), SecretKey{secret, key}); err != nil {
				return err
			}
		}
	}
	return nil
}

// file adds one file of the runtime's.
func (f *filler) file(at string, k SecretKey) error {
	content := f.contents.Objects[k.Secret][k.Key]
	if len(content) == 0 {
		return fmt.Errorf("key %q of the %s is empty, and podman cannot make a file of it: give it a content, or remove the key", k.Key, wire.DescribeObject(k.Secret))
	}
	f.note("file "+at, content)
	f.spec.SecretFiles[at] = f.object(k, content)
	return nil
}

// files adds a directory of files, or one of them.
func (f *filler) files(use *FileUse) error {
	set := container.FileSet{Path: use.Path, Live: use.Live, Signal: use.Signal}
	marks := []string{}
	for _, item := range f.items(use) {
		content, err := f.contents.Key(use.Object, item.Key)
		switch {
		case err != nil:
			return err
		case use.SubPath == item.Path:
			return f.single(use, item)
		case use.SubPath != "":
			continue
		case strings.HasPrefix(item.Path, ".."):
			return fmt.Errorf("key %q of the %s cannot be the name of a file: give it another path in items", item.Key, wire.DescribeObject(use.Object))
		}
		rights := item.rights(use)
		set.Files = append(set.Files, container.File{Path: item.Path, Content: content, Permissions: rights})
		marks = append(marks, item.Path, f.contents.MarkOf(content))
		// That a file is there is part of the container: no file can be taken out of it.
		if where := fmt.Sprintf("file %s %o %d:%d", path.Join(use.Path, item.Path), rights.Mode, rights.UID, rights.GID); use.Live {
			f.used = append(f.used, where)
		} else {
			f.note(where, content)
		}
	}
	if use.SubPath != "" {
		return fmt.Errorf("the %s has no key %q, which subPath names", wire.DescribeObject(use.Object), use.SubPath)
	}
	set.Mark = wire.Sum([]byte(strings.Join(marks, "\x00"))).String()
	f.spec.Files = append(f.spec.Files, set)
	return nil
}

// items are the keys that become files, in order of their paths.
func (f *filler) items(use *FileUse) []FileItem {
	items := slices.Clone(use.Items)
	if len(items) == 0 {
		for key := range f.contents.Objects[use.Object] {
			items = append(items, FileItem{Key: key, Path: key})
		}
	}
	slices.SortFunc(items, func(a, b FileItem) int { return strings.Compare(a.Path, b.Path) })
	return items
}

func (i FileItem) rights(use *FileUse) container.Permissions {
	rights := use.Rights
	if i.Mode != nil {
		rights.Mode = *i.Mode
	}
	return rights
}

// single adds one file at a path of its own.
func (f *filler) single(use *FileUse, item FileItem) error {
	if err := f.file(use.Path, SecretKey{use.Object, item.Key}); err != nil {
		return err
	}
	f.spec.SecretRights = maps.Clone(f.spec.SecretRights)
	if f.spec.SecretRights == nil {
		f.spec.SecretRights = map[string]container.Permissions{}
	}
	f.spec.SecretRights[use.Path] = item.rights(use)
	return nil
}
