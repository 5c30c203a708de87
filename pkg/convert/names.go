package convert

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

const maxLabel = 63

var noLabel, noKey = regexp.MustCompile(`[^a-z0-9]+`), regexp.MustCompile(`[^-._a-zA-Z0-9]+`)

// label makes an RFC 1123 label of a name.
func label(name string) string {
	name = strings.Trim(noLabel.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if len(name) > maxLabel {
		name = strings.Trim(name[:maxLabel], "-")
	}
	return cmp.Or(name, "app")
}

// key makes a key of a ConfigMap or Secret of the name of a file.
func key(name string) string {
	return cmp.Or(strings.Trim(noKey.ReplaceAllString(name, "-"), "-."), "file")
}

// unique is a name, or one with a number if that is taken. It takes it.
func unique(taken map[string]bool, name string) string {
	found := name
	for i := 2; taken[found]; i++ {
		suffix := "-" + strconv.Itoa(i)
		found = name[:min(len(name), maxLabel-len(suffix))] + suffix
	}
	taken[found] = true
	return found
}

// nameOf returns the name of a thing, which is one that nothing else has.
func nameOf(names map[string]string, thing, wanted string) string {
	if name, known := names[thing]; known {
		return name
	}
	taken := map[string]bool{}
	for _, name := range names {
		taken[name] = true
	}
	names[thing] = unique(taken, label(wanted))
	return names[thing]
}
