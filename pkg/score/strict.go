package score

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// decodeStrict decodes data into v, a pointer to a struct. It refuses fields
// that v does not have and values of another kind, with the whole path of the
// field: encoding/json alone names no list index, and takes "Image" for
// "image". As in Kubernetes, null stands for an absent value.
func decodeStrict(data []byte, v any) error {
	raw, err := parseDocument(data)
	if err != nil {
		return err
	}
	if err := checkValue("", raw, reflect.TypeOf(v).Elem()); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fieldErrorf("", "not the document that is needed here")
	}
	return nil
}

// checkValue walks a parsed value beside the Go type that it will be decoded
// into. Its depth is bounded by that of the type.
func checkValue(path string, raw any, t reflect.Type) error {
	if raw == nil {
		return nil
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !fits(raw, t) {
		return fieldErrorf(path, "is %s, %s is needed", rawName(raw), kindName(t))
	}
	switch value := raw.(type) {
	case map[string]any:
		return checkStruct(path, value, t)
	case []any:
		for i, item := range value {
			if err := checkValue(index(path, i), item, t.Elem()); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkStruct(path string, value map[string]any, t reflect.Type) error {
	fields := make(map[string]reflect.Type, t.NumField())
	known := make([]string, 0, t.NumField())
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields[name] = f.Type
		known = append(known, name)
	}
	for _, name := range slices.Sorted(maps.Keys(value)) {
		ft, ok := fields[name]
		if !ok {
			return fieldErrorf(join(path, name), "unknown field; known here: %s", strings.Join(known, ", "))
		}
		if err := checkValue(join(path, name), value[name], ft); err != nil {
			return err
		}
	}
	return nil
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
