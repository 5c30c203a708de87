// Package services names what runs on a device as people on the device do: a service of
// a Deployment, by as much of its name as tells it from others. It imports the contract
// only.
package services

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Errors of Find; match them with errors.Is.
var (
	// ErrUnknown: nothing has the name.
	ErrUnknown = errors.New("no such service on this device")
	// ErrAmbiguous: several services have the name.
	ErrAmbiguous = errors.New("more than one service has this name")
)

// Name is that of a service.
type Name struct {
	wire.DeploymentRef
	Service string `json:"service"`
}

// String returns "<namespace>/<deployment>/<service>".
func (n Name) String() string { return n.DeploymentRef.String() + "/" + n.Service }

// Compare orders names by Deployment, then by service.
func (n Name) Compare(o Name) int {
	return cmp.Or(n.DeploymentRef.Compare(o.DeploymentRef), strings.Compare(n.Service, o.Service))
}

// maxListed bounds the names in an error.
const maxListed = 20

// Find returns which of the names a text means: SERVICE, DEPLOYMENT/SERVICE,
// NAMESPACE/DEPLOYMENT/SERVICE, or the same as `podman ps` shows it, with underscores. It
// returns ErrUnknown or ErrAmbiguous, with the names to choose from.
func Find(text string, names []Name) (Name, error) {
	names = slices.Clone(names)
	slices.SortFunc(names, Name.Compare)
	names = slices.Compact(names)
	suffix := "/" + strings.ReplaceAll(text, "_", "/")
	found := slices.DeleteFunc(slices.Clone(names), func(n Name) bool { return !strings.HasSuffix("/"+n.String(), suffix) })
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Name{}, fmt.Errorf("%.200q: %w: choose one of %s", text, ErrAmbiguous, List(found))
	case len(names) == 0:
		return Name{}, fmt.Errorf("%.200q: %w, which has none at present", text, ErrUnknown)
	}
	return Name{}, fmt.Errorf("%.200q: %w; it has %s", text, ErrUnknown, List(names))
}

// List is a list of names for an error, which has only the first of very many.
func List(names []Name) string {
	shown := make([]string, 0, maxListed)
	for _, n := range names[:min(len(names), maxListed)] {
		shown = append(shown, n.String())
	}
	if more := len(names) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(shown, ", ")
}
