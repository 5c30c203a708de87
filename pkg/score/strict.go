package score

import (
	"cmp"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decodeStrict sets v, a pointer to a struct, to a parsed value. It refuses fields
// that v does not have and values of another kind, with the whole path of the
// field: encoding/json alone names no list index, and takes "Image" for
// "image". As in Kubernetes, null stands for an absent value.
func decodeStrict(raw, v any) error { return setValue("", raw, reflect.ValueOf(v).Elem()) }

// setValue sets what a Go type can hold. Its depth is bounded by that of the type.
func setValue(path string, raw any, v reflect.Value) error {
	if raw == nil {
		return nil
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if !fits(raw, v.Type()) {
		return fieldErrorf(path, "is %s, %s is needed%s", rawName(raw), kindName(v.Type()), quoting(raw, v.Kind()))
	}
	switch value := raw.(type) {
	case map[string]any:
		return setStruct(path, value, v)
	case []any:
		return setList(path, value, v)
	case string:
		v.SetString(value)
	case bool:
		v.SetBool(value)
	case json.Number:
		n, _ := strconv.Atoi(value.String()) // it fits
		v.SetInt(int64(n))
	}
	return nil
}

// quoting is what to do about a text that YAML takes for something else, as it does with N.
func quoting(raw any, wanted reflect.Kind) string {
	switch raw.(type) {
	case bool, json.Number:
		if wanted == reflect.String {
			return ": write it in quotation marks"
		}
	}
	return ""
}

func setList(path string, list []any, v reflect.Value) error {
	v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
	var found mistakes
	for i, item := range list {
		found.add(setValue(index(path, i), item, v.Index(i)))
	}
	return found.err()
}

func setStruct(path string, value map[string]any, v reflect.Value) error {
	fields := make(map[string]reflect.Value, v.NumField())
	known := make([]string, 0, v.NumField())
	for f, field := range v.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = field
		known = append(known, name)
	}
	var found mistakes
	for _, name := range slices.Sorted(maps.Keys(value)) {
		if field, ok := fields[name]; ok {
			found.add(setValue(join(path, name), value[name], field))
		} else {
			found.add(fieldErrorf(join(path, name), "unknown field%s", suggest(name, known)))
		}
	}
	return found.err()
}

// fits reports whether a parsed value can become a t.
func fits(raw any, t reflect.Type) bool {
	switch value := raw.(type) {
	case map[string]any:
		return t.Kind() == reflect.Struct
	case []any:
		return t.Kind() == reflect.Slice
	case string:
		return t.Kind() == reflect.String
	case bool:
		return t.Kind() == reflect.Bool
	case json.Number:
		if t.Kind() != reflect.Int {
			return false
		}
		_, err := strconv.Atoi(value.String())
		return err == nil
	}
	return false
}

// rawName says what a parsed value is; the value itself may be a secret.
func rawName(raw any) string {
	switch value := raw.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case bool:
		return strconv.FormatBool(value)
	default:
		return "a number"
	}
}

// kindName says what a field takes, for the kinds that scores are made of.
func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		return "an object"
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	default:
		return "a string"
	}
}

// suggest says what an unknown name may have been meant to be: all names, where they are few,
// or one that differs little.
func suggest(name string, known []string) string {
	const few, little = 12, 2
	if len(known) <= few {
		return "; known here: " + strings.Join(known, ", ")
	}
	nearest := slices.MinFunc(known, func(a, b string) int { return cmp.Compare(distance(name, a), distance(name, b)) })
	if distance(name, nearest) > little {
		return ""
	}
	return "; did you mean " + nearest + "?"
}

// distance is how many letters have to be inserted, deleted or replaced to make a of b,
// whatever their case (Levenshtein). It is at most that of the longer one.
func distance(a, b string) int {
	if len(a) > maxName {
		return len(a)
	}
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal, row[j+1] = row[j+1], min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
