package convert

import (
	"cmp"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
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
	// Directory returns what a directory has, and false for what is no directory or has
	// anything but files of text.
	Directory(path string) (d Directory, ok bool)
	// Here reports whether a path is one of the machine on which the project is converted, such
	// as one in the home of whoever does so, and nothing that the project itself says.
	Here(path string) bool
}

// File is a file of text.
type File struct {
	Content string
	// Executable: its owner may execute it.
	Executable bool
	// Hidden: its name, or that of a directory on the way to it, begins with a dot, as those
	// do that hold logins: .env, .ssh.
	Hidden bool
}

// Directory is what a directory and those below have, by their paths in it.
type Directory struct {
	Files map[string]File
	// Hidden are files and directories that are left out since their names begin with a dot,
	// or links to such, in order.
	Hidden []string
}

// privateKey is a part of each file that holds one, in PEM.
const privateKey = "PRIVATE KEY-----"

// sensitive reports whether it may hold what only some may read.
func (f File) sensitive() bool { return f.Hidden || strings.Contains(f.Content, privateKey) }

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
	dir, small := c.directory(source)
	if small && readOnly {
		return c.besideDirectory(rel, target, dir, at)
	}
	name := nameOf(c.project.volumes, "directory "+rel, cmp.Or(strings.Trim(rel, "."), "project"))
	instead := "put files that the program needs into a ConfigMap or the image, or give an absolute path of the device"
	if small {
		instead = "mount it read-only (:ro) to have its files in a ConfigMap, or give an absolute path of the device"
	}
	c.lost("devices do not have "+dotted(rel)+", so it is the volume "+name+", which is empty at first", instead, "volumes", at)
	return c.mount(score.Volume{Name: name, MountPath: target, ReadOnly: readOnly}, "volumes", at)
}

// here translates a path of this machine, which devices do not have.
func (c *container) here(source, target string, readOnly bool, at string) bool {
	name := nameOf(c.project.volumes, "directory "+source, path.Base(source))
	c.lost("devices do not have "+source+", a path of this machine, so it is the volume "+name+", which is empty at first",
		"put files that the program needs into a ConfigMap or the image, or give an absolute path of the device", "volumes", at)
	return c.mount(score.Volume{Name: name, MountPath: target, ReadOnly: readOnly}, "volumes", at)
}

func (c *container) besideFile(rel, target string, f File, readOnly bool, at string) bool {
	key := key(path.Base(rel))
	name := c.configMap(rel, map[string]string{key: f.Content})
	c.exposed(name, at, map[string]File{dotted(rel): f})
	if !readOnly {
		c.lost("the file is in ConfigMap "+name+", and the container can only read it", "make the mount read-only (:ro), or have the program write elsewhere", "volumes", at)
	}
	return c.mount(score.Volume{ConfigMap: &score.ConfigMapFiles{Name: name, Items: []score.FileItem{f.item(key, key)}}, SubPath: key, MountPath: target}, "volumes", at)
}

// exposed says which files of a ConfigMap may hold what not everybody may read.
func (c *container) exposed(configMap, at string, files map[string]File) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if files[name].sensitive() {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		c.lost("ConfigMap "+configMap+" has the content of "+some(names)+", for everybody who may read ConfigMaps",
			"if passwords or keys are in it, put it into a Secret, and mount that", "volumes", at)
	}
}

// maxNamed bounds the names in a line.
const maxNamed = 3

// some are the first names, and how many follow.
func some(names []string) string {
	if rest := len(names) - maxNamed; rest > 0 {
		return strings.Join(names[:maxNamed], ", ") + " and " + strconv.Itoa(rest) + " more"
	}
	return strings.Join(names, ", ")
}

// directory returns what a directory has that fits into a ConfigMap.
func (c *container) directory(source string) (Directory, bool) {
	dir, ok := c.files.Directory(source)
	size := 0
	for name, f := range dir.Files {
		size += len(key(name)) + len(f.Content)
	}
	return dir, ok && len(dir.Files) > 0 && len(dir.Files) <= maxItems && size <= MaxConfigMap
}

func (c *container) besideDirectory(rel, target string, dir Directory, at string) bool {
	taken, data := map[string]bool{}, map[string]string{}
	var items []score.FileItem
	for _, file := range slices.Sorted(maps.Keys(dir.Files)) {
		key := unique(taken, key(file))
		data[key] = dir.Files[file].Content
		items = append(items, dir.Files[file].item(key, file))
	}
	name := c.configMap(rel, data)
	c.exposed(name, at, dir.Files)
	if len(dir.Hidden) > 0 {
		c.lost("hidden files often hold passwords and keys, so these of "+dotted(rel)+" are left out: "+some(dir.Hidden),
			"put what the program needs into a Secret, or mount the file by its name", "volumes", at)
	}
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
