package derive

import (
	"fmt"
	"maps"
	"slices"

	"fleet.nationtech.io/fleet/pkg/scoreschema"
)

// Mutate calls visit with copies of a document: each place with each of the values, without
// the place, and each object with a field that nothing has.
func Mutate(doc any, values []any, visit func(at string, mutant any)) {
	for _, at := range placesIn(doc, nil) {
		for _, v := range values {
			visit(at.String(), with(doc, at, v))
		}
		if _, isObject := get(doc, at).(map[string]any); isObject {
			visit(at.String(), with(doc, at.field("nothingHasThis"), 1))
		}
		if _, inObject := get(doc, at[:len(at)-1]).(map[string]any); inObject {
			visit(at.String(), with(doc, at, absent{}))
		}
	}
}

// Mutant is a copy of a document with another value at one of its places.
func Mutant(doc any, place uint, v any) any {
	all := placesIn(doc, nil)
	return with(doc, all[place%uint(len(all))], v)
}

func placesIn(doc any, at path) (all []path) {
	if len(at) > 0 {
		all = append(all, at)
	}
	switch value := doc.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			all = append(all, placesIn(value[key], at.field(key))...)
		}
	case []any:
		for i, item := range value {
			all = append(all, placesIn(item, at.field(fmt.Sprint(i)))...)
		}
	}
	return all
}

// Missing says which fields have no comment, and which have no example.
func (d *Deriver) Missing(s *scoreschema.Schema) (all []string) {
	for name, places := range d.places {
		if _, ok := d.probe(places[0], name); !ok && name != "" {
			all = append(all, fmt.Sprintf("no example has %s, at %s: add it to one in examples/podman-v0", name, places[0]))
		}
	}
	for _, at := range scoreschema.Paths(s) {
		if field, _ := scoreschema.Find(s, at); field.Description == "" {
			all = append(all, fmt.Sprintf("%s has no comment in package score", at))
		}
	}
	slices.Sort(all)
	return all
}
