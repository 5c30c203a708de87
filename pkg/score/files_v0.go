package score

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// TypeFilesV0 is the score type that FilesV0 decodes.
const TypeFilesV0 = "FilesV0"

// FilesV0 puts files on the device, below the directories that agent.yaml lists as fileRoots,
// and takes them back when the Deployment leaves.
type FilesV0 struct {
	// Files are put all or not at all, at least one.
	Files []PlacedFile `json:"files"`
}

// PlacedFile is a file on the device.
type PlacedFile struct {
	// Path is absolute, and below one of fileRoots in agent.yaml. Directories that are missing
	// are made, with mode 0755 and owner root.
	Path string `json:"path" template:"path"`
	// Content is the text of the file. Exactly one of content, configMapKeyRef and
	// secretKeyRef is needed.
	Content *string `json:"content,omitempty" template:"text"`
	// ConfigMapKeyRef takes the content from a ConfigMap.
	ConfigMapKeyRef *ConfigMapKeyRef `json:"configMapKeyRef,omitempty"`
	// SecretKeyRef takes the content from a Secret.
	SecretKeyRef *SecretKeyRef `json:"secretKeyRef,omitempty"`
	// Mode are the permissions of the file, at most 0777; 0644 when it is nil, and 0600 for the
	// content of a Secret.
	Mode *int `json:"mode,omitempty"`
	// Owner is the name or the number of an account of the device; root when it is empty.
	Owner string `json:"owner,omitempty"`
	// Group is the name or the number of a group of the device; root when it is empty.
	Group string `json:"group,omitempty"`
}

// Permissions of files that have no mode of their own.
const (
	defaultPlacedMode = 0o644
	defaultSecretMode = 0o600
)

// Permissions are those that the file gets.
func (f *PlacedFile) Permissions() int {
	switch {
	case f.Mode != nil:
		return *f.Mode
	case f.SecretKeyRef != nil:
		return defaultSecretMode
	}
	return defaultPlacedMode
}

// ParseFilesV0 decodes and validates the data of a FilesV0 score. Errors wrap ErrInvalid and
// name the field.
func ParseFilesV0(data []byte) (*FilesV0, error) {
	raw, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	f, err := decodeFilesV0(raw)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// decodeFilesV0 returns, besides an error, what could be read.
func decodeFilesV0(raw any) (*FilesV0, error) {
	var f FilesV0
	if err := decodeStrict(raw, &f); err != nil {
		return &f, besides(err, f.validate(), raw)
	}
	return &f, f.validate()
}

func (f *FilesV0) validate() error {
	if len(f.Files) == 0 {
		return fieldErrorf("files", "at least one file is needed")
	}
	return all(validateEach("files", f.Files, PlacedFile.validate), f.refuseOverlaps())
}

func (f PlacedFile) validate(at string) error {
	return all(
		checkAbsolute(at+".path", f.Path),
		f.validateContent(at),
		checkWithin(at+".mode", f.Mode, 0, 0o777),
		checkAccount(at+".owner", f.Owner),
		checkAccount(at+".group", f.Group),
	)
}

func (f *PlacedFile) validateContent(at string) error {
	given := 0
	for _, is := range []bool{f.Content != nil, f.ConfigMapKeyRef != nil, f.SecretKeyRef != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		return fieldErrorf(at, "exactly one of content, configMapKeyRef and secretKeyRef is needed")
	}
	if c := f.ConfigMapKeyRef; c != nil {
		return all(checkConfigMapName(at+".configMapKeyRef.name", c.Name), checkConfigMapKey(at+".configMapKeyRef.key", c.Key))
	}
	if s := f.SecretKeyRef; s != nil {
		return all(checkSecretName(at+".secretKeyRef.name", s.Name), checkSecretKey(at+".secretKeyRef.key", s.Key))
	}
	return nil
}

// accountPattern is the name of an account or a group, or a number.
var accountPattern = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.-]{0,31}\$?|[0-9]{1,10})$`)

func checkAccount(field, name string) error {
	if name == "" {
		return nil
	}
	n, err := strconv.Atoi(name)
	if !accountPattern.MatchString(name) || err == nil && n > maxID {
		return fieldErrorf(field, "%.40q is neither the name of an account or group nor a number from 0 to %d", name, maxID)
	}
	return nil
}

// refuseOverlaps refuses two files of one path, and a file that is to be a directory, too.
func (f *FilesV0) refuseOverlaps() error {
	var found mistakes
	for i, file := range f.Files[:min(len(f.Files), maxListItems)] {
		for _, other := range f.Files[:i] {
			if file.Path == other.Path || strings.HasPrefix(file.Path, other.Path+"/") || strings.HasPrefix(other.Path, file.Path+"/") {
				found.add(fieldErrorf(index("files", i)+".path", "%.80q and %.80q exclude each other", file.Path, other.Path))
				break
			}
		}
	}
	return found.err()
}

// Demands returns the fields that need more of the namespace than the least: files of the
// device are what a hostPath is.
func (f *FilesV0) Demands() (d Demands) {
	for i := range f.Files {
		d = append(d, Demand{index("files", i) + ".path", Privileged})
	}
	return d
}

// Secrets returns the names of the Secrets that the score needs, ordered.
func (f *FilesV0) Secrets() []string { return slices.Sorted(maps.Keys(f.objects().secrets)) }

// ConfigMaps returns the names of the ConfigMaps that the score needs, ordered.
func (f *FilesV0) ConfigMaps() []string { return slices.Sorted(maps.Keys(f.objects().configMaps)) }

func (f *FilesV0) objects() objects {
	o := objects{map[string]bool{}, map[string]bool{}}
	for _, file := range f.Files {
		if c := file.ConfigMapKeyRef; c != nil {
			o.configMaps[c.Name] = true
		}
		if s := file.SecretKeyRef; s != nil {
			o.secrets[s.Name] = true
		}
	}
	return o
}

var filesV0Type = reflect.TypeFor[FilesV0]()
