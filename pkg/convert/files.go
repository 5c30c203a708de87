package convert

import (
	"cmp"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// MaxConfigMap is how many bytes of names and content a ConfigMap may have for devices.
const MaxConfigMap = wire.MaxSecret

// maxItems bounds the files of a directory: a score lists them.
const maxItems = 256

// Files reads what a compose project names.
type Files interface {
	// Text returns a regular file of text of at most MaxConfigMap bytes, and false for
	// everything else.
	Text(path string) (f File, ok bool)
	// Directory returns the files of a directory and those below, by their paths in it, and
	// false for what is no directory or has anything but files of text.
	Directory(path string) (files map[string]File, ok bool)
}

// File is a file of text.
type File struct {
	Content string
	// Executable: its owner may execute it.
	Executable bool
}

// item is what a file is in a score.
func (f File) item(key, path string) score.FileItem {
	i := score.FileItem{Key: key, Path: path}
	if f.Executable {
		mode := score.DefaultFileMode | 0o111
		i.Mode = &mode
	}
	return i
}

// local reports whether a path is beside the compose file: devices do not have it.
func (c *container) local(source string) bool {
	rel, err := filepath.Rel(c.in.WorkingDir, source)
	return err == nil && c.in.WorkingDir != "/" && rel != ".." && !strings.HasPrefix(rel, "../")
}

// beside translates what is beside the compose file: a file of text, and a directory of such that
// is only read, becomes a ConfigMap, and another directory a volume.
func (c *container) beside(source, target string, readOnly bool, at string) bool {
	rel, _ := filepath.Rel(c.in.WorkingDir, source)
	if f, ok := c.files.Text(source); ok {
		return c.besideFile(rel, target, f, readOnly, at)
	}
	files, small := c.directory(source)
	if small && readOnly {
		return c.besideDirectory(rel, target, files, at)
	}
	name := nameOf(c.project.volumes, "directory "+rel, cmp.Or(strings.Trim(rel, "."), "project"))
	instead := "put files that the program needs into a ConfigMap or the image, or give an absolute path of the device"
	if small {
		instead = "mount it read-only (:ro) to have its files in a ConfigMap, or give an absolute path of the device"
	}
	c.lost("devices do not have "+dotted(rel)+", so it is the volume "+name+", which is empty at first", instead, "volumes", at)
	return c.mount(score.Volume{Name: name, MountPath: target, ReadOnly: readOnly}, "volumes", at)
}

func (c *container) besideFile(rel, target string, f File, readOnly bool, at string) bool {
	key := key(path.Base(rel))
	name := c.configMap(rel, map[string]string{key: f.Content})
	if !readOnly {
		c.lost("the file is in ConfigMap "+name+", and the container can only read it", "make the mount read-only (:ro), or have the program write elsewhere", "volumes", at)
	}
	return c.mount(score.Volume{ConfigMap: &score.ConfigMapFiles{Name: name, Items: []score.FileItem{f.item(key, key)}}, SubPath: key, MountPath: target}, "volumes", at)
}

// directory returns the files of a directory that fits into a ConfigMap.
func (c *container) directory(source string) (map[string]File, bool) {
	files, ok := c.files.Directory(source)
	size := 0
	for name, f := range files {
		size += len(key(name)) + len(f.Content)
	}
	return files, ok && len(files) > 0 && len(files) <= maxItems && size <= MaxConfigMap
}

func (c *container) besideDirectory(rel, target string, files map[string]File, at string) bool {
	taken, data := map[string]bool{}, map[string]string{}
	var items []score.FileItem
	for _, file := range slices.Sorted(maps.Keys(files)) {
		key := unique(taken, key(file))
		data[key] = files[file].Content
		items = append(items, files[file].item(key, file))
	}
	name := c.configMap(rel, data)
	return c.mount(score.Volume{ConfigMap: &score.ConfigMapFiles{Name: name, Items: items}, MountPath: target}, "volumes", at)
}

// configMap keeps content in a ConfigMap that is named after what it is made of.
func (c *container) configMap(of string, data map[string]string) (name string) {
	if name, known := c.keys[of]; known {
		return name
	}
	name = unique(c.names, label(c.project.name+"-"+of))
	c.keys[of] = name
	c.maps[name] = &ConfigMap{Name: name, Data: data}
	return name
}

// dotted is a path as it is written in a compose file.
func dotted(rel string) string {
	if rel == "." {
		return rel
	}
	return "./" + rel
}
