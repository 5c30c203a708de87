package scoreschema

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Parse reads a schema of this package.
func Parse(data []byte) (*Schema, error) {
	var s Schema
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("reading a schema: %w", err)
	}
	return &s, nil
}

// Paths are those of all fields, such as "services.ports.hostPort".
func Paths(s *Schema) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		field := s.Properties[name]
		all = append(all, name)
		for _, inner := range Paths(field.element()) {
			all = append(all, name+"."+inner)
		}
	}
	return all
}

// Find returns the field at a path. Its error names the part that is not there, and what is.
func Find(s *Schema, path string) (*Schema, error) {
	if path == "" {
		return s, nil
	}
	field, above := s, ""
	for name := range strings.SplitSeq(path, ".") {
		name, _, _ = strings.Cut(name, "[") // as errors write it: services[0]
		inner, ok := field.element().Properties[name]
		if !ok {
			return nil, fmt.Errorf("%s has no field %.64q: %s", cmp.Or(above, "the score"), name, known(field.element()))
		}
		field, above = inner, strings.TrimPrefix(above+"."+name, ".")
	}
	return field, nil
}

func known(s *Schema) string {
	if len(s.Properties) == 0 {
		return "it has none"
	}
	return "it has " + strings.Join(slices.Sorted(maps.Keys(s.Properties)), ", ")
}

// element is what the elements of a list are, or s itself.
func (s *Schema) element() *Schema {
	for s.Items != nil {
		s = s.Items
	}
	return s
}
