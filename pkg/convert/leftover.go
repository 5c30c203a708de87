package convert

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// advice says why something is not translated, and what to do instead.
type advice struct{ why, instead string }

// advices are by path, with "*" for any name and any item.
type advices map[string]advice

// unknown is the advice on what no table knows.
var unknown = advice{"PodmanV0 has nothing that corresponds to it", "remove it if the application works without it"}

// find returns the advice on a path, which is relative to that of the table. The path itself
// comes before what stands for others, too.
func (a advices) find(path []string) (advice, bool) {
	if found, ok := a[strings.Join(path, ".")]; ok {
		return found, true
	}
	for _, pattern := range slices.Sorted(maps.Keys(a)) {
		if matches(strings.Split(pattern, "."), path) {
			return a[pattern], true
		}
	}
	return advice{}, false
}

func matches(pattern, path []string) bool {
	return slices.EqualFunc(pattern, path, func(p, name string) bool { return p == "*" || p == name })
}

// leftovers reports what is left in a value that is at a path, in the order of its fields. tag
// is yaml or json.
func (l *losses) leftovers(path []string, v reflect.Value, tag string, table advices) {
	w := walker{losses: l, base: path, tag: tag, table: table}
	w.walk(nil, v)
}

type walker struct {
	*losses
	base  []string
	tag   string
	table advices
}

func (w *walker) walk(path []string, v reflect.Value) {
	if w.nothing(v) {
		return
	}
	if found, ok := w.table.find(path); ok && len(path) > 0 {
		w.lose(below(w.base, path...), found.why, found.instead)
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.Elem().Kind() == reflect.Struct {
			w.walk(path, v.Elem())
			return
		}
	case reflect.Struct:
		if named(v.Type()) {
			w.walkStruct(path, v)
			return
		}
	case reflect.Map:
		if v.Len() > 0 {
			w.walkMap(path, v)
			return
		}
	case reflect.Slice:
		if structs(v.Type().Elem()) && v.Len() > 0 {
			for i := range v.Len() {
				w.walk(below(path, item(i)), v.Index(i))
			}
			return
		}
	}
	w.lose(below(w.base, path...), unknown.why, unknown.instead)
}

// nothing reports whether a value holds nothing that could be lost: a struct of which all was
// taken is such a one, a pointer to false is not.
func (w *walker) nothing(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Pointer, reflect.Interface:
		return v.IsNil() || v.Elem().Kind() == reflect.Struct && w.nothing(v.Elem())
	case reflect.Map:
		return v.Len() == 0
	case reflect.Slice:
		if v.Len() == 0 || !structs(v.Type().Elem()) {
			return v.Len() == 0
		}
		for i := range v.Len() {
			if !w.nothing(v.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		if !named(v.Type()) {
			return v.IsZero()
		}
		for _, f := range v.Fields() {
			if !w.nothing(f) {
				return false
			}
		}
		return true
	}
	return v.IsZero()
}

func (w *walker) walkStruct(path []string, v reflect.Value) {
	for f, value := range v.Fields() {
		name, inline := fieldName(f, w.tag)
		if inline && value.Kind() != reflect.Map {
			w.walk(path, value)
			continue
		}
		if inline {
			w.walkMap(path, value)
			continue
		}
		w.walk(below(path, name), value)
	}
}

func (w *walker) walkMap(path []string, v reflect.Value) {
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for _, key := range keys {
		at := below(path, fmt.Sprint(key))
		if value := v.MapIndex(key); structs(value.Type()) && !w.nothing(value) {
			w.walk(at, value)
		} else if !structs(value.Type()) {
			found, ok := w.table.find(at)
			if !ok {
				found = unknown
			}
			w.lose(below(w.base, at...), found.why, found.instead)
		}
	}
}

// fieldName is the name of a field in documents, and whether its fields are those of its parent.
func fieldName(f reflect.StructField, tag string) (name string, inline bool) {
	name, options, _ := strings.Cut(f.Tag.Get(tag), ",")
	if strings.HasPrefix(name, "#") || f.Anonymous && name == "" || strings.Contains(options, "inline") {
		return "", true
	}
	if name == "" || name == "-" {
		return f.Name, false
	}
	return name, false
}

// named reports whether a struct has fields that documents name: a quantity or a time has
// others.
func named(t reflect.Type) bool {
	for f := range t.Fields() {
		if !f.IsExported() {
			return false
		}
	}
	return true
}

func structs(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct
}
