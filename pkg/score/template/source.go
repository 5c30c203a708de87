package template

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Kind is where a value of a device comes from.
type Kind string

// Values of Kind. They are the names below "device".
const (
	Name        Kind = "name"
	Labels      Kind = "labels"
	Annotations Kind = "annotations"
	Inventory   Kind = "inventory"
)

// Source is a value of a device. Key is empty for Name.
type Source struct {
	Kind Kind
	Key  string
}

// inventory are the fields of the inventory that a text may use: those that no upgrade of a
// device changes.
var inventory = []string{"hostname", "arch", "os", "osVersion", "cpuCores", "memoryMiB", "address"}

// InventoryFields returns the keys that a Source of Kind Inventory may have.
func InventoryFields() []string { return slices.Clone(inventory) }

// String is as texts name it: device.labels.site, device.annotations['plc/address'].
func (s Source) String() string {
	switch {
	case s.Kind == Name:
		return "device.name"
	case plainKey.MatchString(s.Key):
		return "device." + string(s.Kind) + "." + s.Key
	}
	return "device." + string(s.Kind) + "['" + s.Key + "']"
}

// maxKey is the longest key of a label or an annotation.
const maxKey = 253 + 1 + 63

var (
	plainKey  = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	quotedKey = regexp.MustCompile(`^\['([A-Za-z0-9._/-]+)'\]$`)
)

// parseSource parses what stands between "${" and ":-" or "}".
func parseSource(text string) (Source, error) {
	root, rest, _ := strings.Cut(text, ".")
	if root != "device" {
		return Source{}, fmt.Errorf("%s is unknown: an expression begins with device; for the text write $${%s", shown(root), shown(text))
	}
	end := strings.IndexAny(rest, ".[")
	if end < 0 {
		end = len(rest)
	}
	kind, key := Kind(rest[:end]), rest[end:]
	switch {
	case kind == Name && key == "":
		return Source{Kind: Name}, nil
	case kind == Name:
		return Source{}, fmt.Errorf("nothing follows device.name, but %s does", shown(key))
	case kind != Labels && kind != Annotations && kind != Inventory:
		return Source{}, fmt.Errorf("device.%s is unknown: use device.name, device.labels, device.annotations or device.inventory", shown(string(kind)))
	}
	key, err := parseKey(kind, key)
	if err != nil {
		return Source{}, err
	}
	return Source{kind, key}, nil
}

func parseKey(kind Kind, text string) (string, error) {
	key, dot := strings.CutPrefix(text, ".")
	if !dot {
		if quoted := quotedKey.FindStringSubmatch(text); quoted != nil {
			key = quoted[1]
		}
	} else if !plainKey.MatchString(key) {
		key = text // which is no key
	}
	switch {
	case key == text, key == "", len(key) > maxKey:
		return "", fmt.Errorf("device.%s needs a key: device.%s.site, or device.%s['example.com/site'] for one with dots or slashes", kind, kind, kind)
	case kind == Inventory && !slices.Contains(inventory, key):
		return "", fmt.Errorf("device.inventory.%s is unknown: use %s", shown(key), strings.Join(inventory, ", "))
	}
	return key, nil
}

// shown is what an error shows of a text: the beginning, quoted if it is not plain.
func shown(text string) string {
	const most = 64
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Sprintf("%.*q", most, text)
	}
	return text[:min(len(text), most)]
}
