package scoreschema

import (
	"fmt"
	"slices"
)

// TypeName is the type in the words of kubectl explain: string, []Object, map[string]string.
func (s *Schema) TypeName() string {
	switch s.Type[0] {
	case "array":
		return "[]" + s.Items.TypeName()
	case "object":
		if s.Properties == nil {
			return "map[string]string"
		}
		return "Object"
	}
	return s.Type[0]
}

// Fields are those of the object, or of the objects in a list.
func (s *Schema) Fields() map[string]*Schema { return s.element().Properties }

// Requires reports whether a field has to be given.
func (s *Schema) Requires(field string) bool { return slices.Contains(s.element().Required, field) }

// Bounds say what the value may be, a line each.
func (s *Schema) Bounds() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		add("%d to %d", *s.Minimum, *s.Maximum)
	case s.Minimum != nil:
		add("at least %d", *s.Minimum)
	case s.Maximum != nil:
		add("at most %d", *s.Maximum)
	}
	for _, value := range s.Enum {
		if value != nil && value != "" {
			add("one of: %v", value)
		}
	}
	for _, pattern := range append([]Pattern{{s.Pattern}}, s.AllOf...) {
		if pattern.Pattern != "" {
			add("pattern %s", pattern.Pattern)
		}
	}
	for _, bound := range []struct {
		n    int
		what string
	}{
		{s.MinLength, "at least %d characters"}, {s.MaxLength, "at most %d characters"}, {s.MinItems, "at least %d items"},
		{s.MaxItems, "at most %d items"}, {s.MaxProperties, "at most %d entries"},
	} {
		if bound.n > 0 {
			add(bound.what, bound.n)
		}
	}
	if s.Items != nil && s.Items.Properties == nil {
		for _, line := range s.Items.Bounds() {
			add("each: %s", line)
		}
	}
	return lines
}
