package score

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of a document before anything else is done with it. White space and
// escapes make a document longer than its canonical form.
const (
	maxDocument = 2 * MaxSize
	maxDepth    = 64
)

// parseDocument parses exactly one JSON document. Numbers stay as they are
// written. A name that appears twice in one object is refused: encoding/json
// would merge the two values, so that readers could disagree on the content.
func parseDocument(data []byte) (any, error) {
	if len(data) > maxDocument {
		return nil, fieldErrorf("", "%d bytes, at most %d are allowed", len(data), maxDocument)
	}
	if !json.Valid(data) {
		return nil, fieldErrorf("", "not one JSON document")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return parseValue(dec, "", 0)
}

func parseValue(dec *json.Decoder, path string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fieldErrorf("", "nested deeper than %d levels", maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, fieldErrorf(path, "not a JSON value")
	}
	switch token {
	case json.Delim('{'):
		return parseObject(dec, path, depth)
	case json.Delim('['):
		return parseList(dec, path, depth)
	default:
		return token, nil
	}
}

func parseObject(dec *json.Decoder, path string, depth int) (any, error) {
	object := map[string]any{}
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, fieldErrorf(path, "not a JSON object")
		}
		at := join(path, name)
		if _, twice := object[name]; twice {
			return nil, fieldErrorf(at, "appears twice")
		}
		if object[name], err = parseValue(dec, at, depth+1); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token() // the closing bracket
	return object, err
}

func parseList(dec *json.Decoder, path string, depth int) (any, error) {
	list := []any{}
	for dec.More() {
		item, err := parseValue(dec, index(path, len(list)), depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	_, err := dec.Token() // the closing bracket
	return list, err
}

// join appends the name of a field to a path. Names come from outside: one
// that does not look like a field's is quoted and cut.
func join(path, name string) string {
	const longest = 64
	if name == "" || len(name) > longest || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '.' }) {
		name = fmt.Sprintf("%.*q", longest, name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
