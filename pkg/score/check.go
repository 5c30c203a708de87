package score

import (
	"regexp"
	"slices"
	"strings"
)

const hostLabel = `[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?`

var (
	labelPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	// As Kubernetes names Secrets, ConfigMaps and their keys.
	secretPattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	secretKeyPattern = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
	envPattern       = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	// imagePattern is the grammar of the OCI distribution specification with a
	// mandatory registry: a host name with a dot, localhost, an IPv6 address in
	// brackets, or any host name with a port.
	imagePattern = regexp.MustCompile(`^(` +
		`(localhost|` + hostLabel + `(\.` + hostLabel + `)+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?|` + hostLabel + `:[0-9]{1,5})` +
		`(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

// checkCount checks how long a list is.
func checkCount(field string, n int) error {
	if n > maxListItems {
		return fieldErrorf(field, "%d items, at most %d are allowed", n, maxListItems)
	}
	return nil
}

func validateEach[T any](at string, items []T, validate func(T, string) error) error {
	if err := checkCount(at, len(items)); err != nil {
		return err
	}
	var found mistakes
	for i, item := range items {
		found.add(validate(item, index(at, i)))
	}
	return found.err()
}

func checkImage(field, image string) error {
	if image == "" {
		return fieldErrorf(field, "an image is needed")
	}
	if len(image) > maxImage || !imagePattern.MatchString(image) {
		return fieldErrorf(field, "%.80q is not a fully qualified image reference such as docker.io/library/nginx:1.29", image)
	}
	return nil
}

func checkEnvName(field, name string) error {
	if len(name) > maxEnvName || !envPattern.MatchString(name) {
		return fieldErrorf(field, "%.80q is not the name of an environment variable", name)
	}
	return nil
}

// checkOneOf checks a value that may be empty, which stands for the first that is allowed.
func checkOneOf[T ~string](field string, value T, allowed ...T) error {
	if value == "" || slices.Contains(allowed, value) {
		return nil
	}
	return fieldErrorf(field, "%.32q is unknown: use %s", value, list(allowed))
}

// list joins words as in a sentence.
func list[T ~string](words []T) string {
	text := string(words[0])
	for i, word := range words[1:] {
		separator := ", "
		if i == len(words)-2 {
			separator = " or "
		}
		text += separator + string(word)
	}
	return text
}

// takeName notes the name of a container, and refuses one that another has.
func takeName(taken map[string]bool, field, name string) error {
	if name != "" && taken[name] {
		return fieldErrorf(field, "%.80q is used twice", name)
	}
	taken[name] = true
	return nil
}

// givenField is a field that something may not have.
type givenField struct {
	name  string
	given bool
}

// refuseGiven refuses each field that is given, and says why.
func refuseGiven(at, why string, fields ...givenField) error {
	var found mistakes
	for _, f := range fields {
		if f.given {
			found.add(fieldErrorf(at+"."+f.name, "%s", why))
		}
	}
	return found.err()
}

func checkLabel(field, name string) error {
	if len(name) > maxName || !labelPattern.MatchString(name) {
		return fieldErrorf(field, "%.80q must be at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit", name, maxName)
	}
	return nil
}

func checkSecretName(field, name string) error { return checkObjectName(field, name, "Secret") }

func checkSecretKey(field, key string) error { return checkObjectKey(field, key, "Secret") }

func checkConfigMapName(field, name string) error { return checkObjectName(field, name, "ConfigMap") }

func checkConfigMapKey(field, key string) error { return checkObjectKey(field, key, "ConfigMap") }

func checkObjectName(field, name, kind string) error {
	if len(name) > maxSecretName || !secretPattern.MatchString(name) {
		return fieldErrorf(field, "%.80q is not the name of a %s", name, kind)
	}
	return nil
}

func checkObjectKey(field, key, kind string) error {
	if len(key) > maxSecretName || !secretKeyPattern.MatchString(key) || key == "." || key == ".." {
		return fieldErrorf(field, "%.80q is not a key of a %s", key, kind)
	}
	return nil
}

// absolutePattern: no name is empty, "." or "..", and none has what podman takes for an option.
var absolutePattern = regexp.MustCompile(`^(/(` + pathName + `|\.` + pathName + `|\.\.[^/\x00:,]+))+$`)

// pathName is a name that does not begin with a dot.
const pathName = `[^/\x00:,.][^/\x00:,]*`

func checkAbsolute(field, p string) error {
	if len(p) > maxPathLength || !absolutePattern.MatchString(p) {
		return fieldErrorf(field, "%.80q is not an absolute path in its shortest form", p)
	}
	return nil
}

func checkStrings(field string, values []string) error {
	if err := checkCount(field, len(values)); err != nil {
		return err
	}
	if slices.ContainsFunc(values, func(s string) bool { return strings.ContainsRune(s, 0) }) {
		return fieldErrorf(field, "contains a NUL byte")
	}
	return nil
}

func checkPort(field string, n int) error {
	if n < 1 || n > 65535 {
		return fieldErrorf(field, "%d is not within 1 to 65535", n)
	}
	return nil
}

// checkVisible checks what becomes part of a request.
func checkVisible(field, text string) error {
	if len(text) > maxProbeText {
		return fieldErrorf(field, "is longer than %d bytes", maxProbeText)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fieldErrorf(field, "contains a control character")
	}
	return nil
}

func checkWithin(field string, n *int, least, most int) error {
	if n != nil && (*n < least || *n > most) {
		return fieldErrorf(field, "%d is not within %d to %d", *n, least, most)
	}
	return nil
}
