package mirror

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	digestForm    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	referenceForm = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|[A-Za-z0-9_][A-Za-z0-9._-]{0,127})$`)
	registryForm  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$`)
)

// name is that of an image.
type name struct {
	registry, repository string
	// reference is a tag or a digest.
	reference string
}

const dockerHub = "docker.io"

// parseName reads a fully qualified name.
func parseName(image string) (name, error) {
	registry, rest, found := strings.Cut(image, "/")
	if !found || !registryForm.MatchString(registry) {
		return name{}, fmt.Errorf("image %.200q: the name of its registry has another form than HOST or HOST:PORT", image)
	}
	n := name{registry: registry}
	n.repository, n.reference, found = strings.Cut(rest, "@")
	if found {
		n.repository, _, _ = strings.Cut(n.repository, ":")
	} else if n.repository, n.reference, found = strings.Cut(rest, ":"); !found {
		n.reference = "latest"
	}
	if registry == dockerHub && !strings.Contains(n.repository, "/") {
		n.repository = "library/" + n.repository
	}
	return n, nil
}

// alias is how a registry is called in the path of a repository, as gateways do.
func alias(registry string) string { return strings.ReplaceAll(registry, ":", "__") }

// IsHere reports whether a registry is on the device itself.
func IsHere(registry string) bool {
	host, _, _ := strings.Cut(registry, ":")
	return host == "localhost" || strings.HasPrefix(host, "127.")
}
