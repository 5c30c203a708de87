package score

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// decodeStrict decodes data into v and refuses fields that v does not have,
// with the whole path of the field. encoding/json alone names the last element
// only, and takes "Image" for "image".
func decodeStrict(data []byte, v any) error {
	var raw any
	if err := decodeNumbers(data, &raw); err != nil {
		return err
	}
	if err := checkFields("", raw, reflect.TypeOf(v).Elem()); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fieldErrorf(te.Field, "is a %s, %s is needed", te.Value, kindName(te.Type))
		}
		return fieldErrorf("", "not a JSON document")
	}
	return nil
}

// checkFields walks raw beside the Go type that it will be decoded into.
// Values of another kind than t are left to json.Unmarshal.
func checkFields(path string, raw any, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch value := raw.(type) {
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return nil
		}
		return checkStruct(path, value, t)
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, item := range value {
			if err := checkFields(fmt.Sprintf("%s[%d]", path, i), item, t.Elem()); err != nil {
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
	for _, name := range sortedKeys(value) {
		ft, ok := fields[name]
		if !ok {
			return fieldErrorf(join(path, name), "unknown field; known here: %s", strings.Join(known, ", "))
		}
		if err := checkFields(join(path, name), value[name], ft); err != nil {
			return err
		}
	}
	return nil
}

func join(path, name string) string {
	const longest = 64
	if len(name) > longest {
		name = name[:longest] + "…"
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint16:
		return "a whole number"
	default:
		return "a " + t.Kind().String()
	}
}
