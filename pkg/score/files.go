package score

import (
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// ConfigMapFiles are the keys of a ConfigMap as files.
type ConfigMapFiles struct {
	// Name of a ConfigMap in the namespace of the Deployment.
	Name string `json:"name"`
	// Items are the keys that become files, all of them when there are none.
	Items []FileItem `json:"items,omitempty"`
	// DefaultMode are the permissions of a file; DefaultFileMode when it is nil.
	DefaultMode *int `json:"defaultMode,omitempty"`
	// UID and GID own the files, as the container sees them.
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
}

// SecretFiles are the keys of a Secret as files.
type SecretFiles struct {
	// SecretName is that of a Secret in the namespace of the Deployment.
	SecretName string `json:"secretName"`
	// Items are the keys that become files, all of them when there are none.
	Items []FileItem `json:"items,omitempty"`
	// DefaultMode are the permissions of a file; DefaultFileMode when it is nil.
	DefaultMode *int `json:"defaultMode,omitempty"`
	// UID and GID own the files, as the container sees them.
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
}

// FileItem makes a file of a key.
type FileItem struct {
	// Key is one of the object.
	Key string `json:"key"`
	// Path is relative, and may have directories.
	Path string `json:"path"`
	// Mode are the permissions of the file; those of DefaultMode when it is nil.
	Mode *int `json:"mode,omitempty"`
}

// DefaultFileMode are the permissions of files: everybody in the container may read them,
// whoever its image runs as.
const DefaultFileMode = 0o444

// Reload says what becomes of a service when the content of its files changes.
type Reload string

// Values of Reload.
const (
	// ReloadRestart: its container is replaced.
	ReloadRestart Reload = "Restart"
	// ReloadSignal: it sees the new content, and gets a signal.
	ReloadSignal Reload = "Signal"
	// ReloadNone: it sees the new content.
	ReloadNone Reload = "None"
)

// Files are the keys of an object that become files.
type Files struct {
	// ConfigMap or Secret is the name of the object; the other one is empty.
	ConfigMap, Secret string
	// Items are empty for all keys.
	Items []FileItem
	// Mode is that of items without one of their own.
	Mode     int
	UID, GID int
}

// Files returns what becomes files, and false for a volume of another kind. SecretName
// is one.
func (v *Volume) Files() (f Files, ok bool) {
	mode := func(given *int) int {
		if given == nil {
			return DefaultFileMode
		}
		return *given
	}
	switch c, s := v.ConfigMap, v.Secret; {
	case c != nil:
		return Files{ConfigMap: c.Name, Items: c.Items, Mode: mode(c.DefaultMode), UID: c.UID, GID: c.GID}, true
	case s != nil:
		return Files{Secret: s.SecretName, Items: s.Items, Mode: mode(s.DefaultMode), UID: s.UID, GID: s.GID}, true
	}
	return Files{}, false
}

// Signal is the signal that follows a change of the content, or 0 for none. The volume must
// be valid.
func (v *Volume) Signal() syscall.Signal {
	switch {
	case v.Reload != ReloadSignal:
		return 0
	case v.ReloadSignal == "":
		return sighup
	}
	return signalOf(v.ReloadSignal)
}

func (v *Volume) validateFiles(at string) error {
	files, ok := v.Files()
	if !ok {
		return v.refuseReload(at)
	}
	name, of := "configMap", checkConfigMapName(at+".configMap.name", files.ConfigMap)
	if v.Secret != nil {
		name, of = "secret", checkSecretName(at+".secret.secretName", files.Secret)
	}
	return all(of, files.validate(at+"."+name), v.validateReload(at), v.validateSubPath(at, files.Items))
}

func (f *Files) validate(at string) error {
	return all(
		validateEach(at+".items", f.Items, FileItem.validate),
		refuseOverlaps(at+".items", f.Items),
		checkWithin(at+".defaultMode", &f.Mode, 0, 0o777),
		checkWithin(at+".uid", &f.UID, 0, maxID),
		checkWithin(at+".gid", &f.GID, 0, maxID),
	)
}

func (i FileItem) validate(at string) error {
	return all(checkConfigMapKey(at+".key", i.Key), checkRelative(at+".path", i.Path), checkWithin(at+".mode", i.Mode, 0, 0o777))
}

// relativePattern: no name is empty, "." or "..", and the first does not begin with "..".
var relativePattern = regexp.MustCompile(`^(` + pathName + `|\.` + pathName + `)(/(` + pathName + `|\.` + pathName + `|\.\.[^/\x00:,]+))*$`)

// checkRelative checks the path of a file in a directory. Names that begin with two dots
// are those of the agent.
func checkRelative(field, p string) error {
	if len(p) > maxPathLength || !relativePattern.MatchString(p) {
		return fieldErrorf(field, "%.80q is not a relative path in its shortest form, which does not begin with ..", p)
	}
	return nil
}

// refuseOverlaps refuses two files of one path, and a file that is to be a directory, too.
func refuseOverlaps(at string, items []FileItem) error {
	var found mistakes
	for i, item := range items[:min(len(items), maxListItems)] {
		for _, other := range items[:i] {
			if item.Path == other.Path || strings.HasPrefix(item.Path, other.Path+"/") || strings.HasPrefix(other.Path, item.Path+"/") {
				found.add(fieldErrorf(index(at, i)+".path", "%.80q and %.80q exclude each other", item.Path, other.Path))
				break
			}
		}
	}
	return found.err()
}

func (v *Volume) validateReload(at string) error {
	found := checkOneOf(at+".reload", v.Reload, ReloadRestart, ReloadSignal, ReloadNone)
	switch {
	case v.ReloadSignal == "":
	case v.Reload != ReloadSignal:
		found = all(found, fieldErrorf(at+".reloadSignal", "needs reload: Signal"))
	case v.Signal() == 0:
		found = all(found, fieldErrorf(at+".reloadSignal", "%.32q is not the name of a signal such as SIGHUP or SIGUSR1", v.ReloadSignal))
	}
	return found
}

func (v *Volume) validateSubPath(at string, items []FileItem) error {
	if v.SubPath == "" {
		return nil
	}
	found := checkRelative(at+".subPath", v.SubPath)
	if len(items) > 0 && !slices.ContainsFunc(items, func(i FileItem) bool { return i.Path == v.SubPath }) {
		found = all(found, fieldErrorf(at+".subPath", "%.80q is the path of none of the items", v.SubPath))
	}
	if v.Reload == ReloadSignal || v.Reload == ReloadNone {
		found = all(found, fieldErrorf(at+".reload", "a single file cannot be exchanged while the container runs: use Restart, or mount the directory"))
	}
	return found
}

// refuseReload refuses what only files of objects have.
func (v *Volume) refuseReload(at string) error {
	var found mistakes
	for _, f := range []struct{ name, value string }{
		{"subPath", v.SubPath}, {"reload", string(v.Reload)}, {"reloadSignal", v.ReloadSignal},
	} {
		if f.value != "" {
			found.add(fieldErrorf(at+"."+f.name, "is for configMap and secret"))
		}
	}
	return found.err()
}
