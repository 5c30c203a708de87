package score

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// admitted is what every score type has that is known here.
type admitted interface {
	Demands() Demands
	Secrets() []string
	ConfigMaps() []string
}

// types are the score types that are known here: the Go type of their data, and what
// decodes and admits it. That returns, besides an error, what could be read.
var types = map[string]struct {
	of    reflect.Type
	admit func(raw any) (admitted, error)
}{
	TypePodmanV0: {podmanV0Type, func(raw any) (admitted, error) {
		p, err := decodePodmanV0(raw)
		return p, all(err, p.admit())
	}},
	TypeFilesV0: {filesV0Type, func(raw any) (admitted, error) { return decodeFilesV0(raw) }},
}

// IsKnown reports whether Validate knows a type.
func IsKnown(typ string) bool {
	_, known := types[typ]
	return known
}

// Types are the score types that Validate knows, in order.
func Types() []string { return slices.Sorted(maps.Keys(types)) }

// TypeNames are those of Types, for a sentence.
func TypeNames() string { return strings.Join(Types(), ", ") }
