package derive

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// path leads to a value in a document; each step is the name of a field, each or any.
type path []string

// Steps that stand for whatever element is there.
const (
	each  = "[]" // of a list
	other = "{}" // of a map
)

func (p path) field(name string) path { return append(slices.Clone(p), name) }
func (p path) item() path             { return p.field(each) }
func (p path) value() path            { return p.field(other) }

// String is as errors write it, for a path without wildcards: indices are steps then.
func (p path) String() string {
	text := ""
	quoted := func(step string) string {
		if strings.Contains(step, ".") {
			return strconv.Quote(step)
		}
		return step
	}
	for _, step := range p {
		switch {
		case step[0] >= '0' && step[0] <= '9':
			text += "[" + step + "]"
		case text == "":
			text = quoted(step)
		default:
			text += "." + quoted(step)
		}
	}
	return text
}

// find returns the first way that a path has in a document, with indices and keys in the
// place of wildcards.
func find(doc any, p path) (path, bool) {
	if len(p) == 0 {
		return nil, true
	}
	first := func(step string, inner any) (path, bool) {
		rest, ok := find(inner, p[1:])
		return append(path{step}, rest...), ok
	}
	switch value := doc.(type) {
	case []any:
		for i, item := range value {
			if found, ok := first(fmt.Sprint(i), item); ok && p[0] == each {
				return found, true
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if p[0] == key || p[0] == other {
				if found, ok := first(key, value[key]); ok {
					return found, true
				}
			}
		}
	}
	return nil, false
}

// get returns what is at a path without wildcards.
func get(doc any, p path) any {
	for _, step := range p {
		switch value := doc.(type) {
		case []any:
			var i int
			_, _ = fmt.Sscan(step, &i)
			doc = value[i]
		case map[string]any:
			doc = value[step]
		}
	}
	return doc
}

// absent takes the place of a value that is to be left out.
type absent struct{}

// with returns a copy of a document with another value at a path.
func with(doc any, p path, v any) any {
	if len(p) == 0 {
		return v
	}
	switch value := doc.(type) {
	case []any:
		items := slices.Clone(value)
		var i int
		_, _ = fmt.Sscan(p[0], &i)
		items[i] = with(items[i], p[1:], v)
		return items
	case map[string]any:
		fields := maps.Clone(value)
		if _, out := v.(absent); out && len(p) == 1 {
			delete(fields, p[0])
			return fields
		}
		fields[p[0]] = with(fields[p[0]], p[1:], v)
		return fields
	}
	return doc
}
