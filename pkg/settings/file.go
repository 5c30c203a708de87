package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// File fills a configuration with what a file says; /dev/null says nothing. Errors
// about its content wrap ErrInvalid.
func File(path string, config any) error {
	if path == os.DevNull {
		return nil
	}
	data, err := Read(path)
	if err != nil {
		return err
	}
	if err := decode(data, reflect.ValueOf(config).Elem()); err != nil {
		return fmt.Errorf("%w in %s: %w", ErrInvalid, path, err)
	}
	return nil
}

// Read returns the content of a configuration file. It waits for nobody who
// should write to a pipe, and takes no more than a configuration can have.
func Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading the configuration: %s is %s: name a file", path, kind(info.Mode()))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("reading the configuration: %s is longer than %d bytes: name the right file", path, maxFile)
	}
	return data, nil
}

func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	}
	return "a device"
}

// decode fills v with one YAML document.
func decode(data []byte, v reflect.Value) error {
	switch {
	case len(data) == 0:
		return errors.New("the file is empty: write settings or a comment into it, or delete it")
	case !isText(data):
		return errors.New("the file is no text: restore it from a backup, or delete it")
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil // comments
	}
	if err == nil {
		err = end(dec)
	}
	if err != nil {
		return notYAML(err, data)
	}
	return fill(v, doc.Content[0], "")
}

// notYAML says in one line what the parser did not like about data.
func notYAML(err error, data []byte) error {
	if line := tabbed(data); line > 0 && (strings.Contains(err.Error(), "cannot start any token") || strings.Contains(err.Error(), "tab character")) {
		return fmt.Errorf("line %d: a tab begins it: indent with spaces", line)
	}
	return errors.New(oneLine(strings.TrimPrefix(err.Error(), "yaml: ")))
}

// tabbed is the number of the first line with a tab in its indentation; 0 for none.
func tabbed(data []byte) int {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		text := bytes.TrimLeft(line, " \t")
		if bytes.ContainsRune(line[:len(line)-len(text)], '\t') && len(bytes.TrimSpace(text)) > 0 {
			return number
		}
	}
	return 0
}

// isText reports whether data can be YAML. A power cut can leave zeros.
func isText(data []byte) bool {
	utf16 := bytes.HasPrefix(data, []byte{0xff, 0xfe}) || bytes.HasPrefix(data, []byte{0xfe, 0xff})
	return utf16 || utf8.Valid(data) && !bytes.ContainsRune(data, 0)
}

func end(dec *yaml.Decoder) error {
	if err := dec.Decode(new(yaml.Node)); err == nil {
		return errors.New("more than one YAML document: keep the first, and delete the line --- and what follows")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// fill decodes a node into a field whose key is given.
func fill(v reflect.Value, n *yaml.Node, key string) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if v.Kind() != reflect.Struct {
		return fillValue(v, n, key)
	}
	if n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		if key == "" {
			return at(n, errors.New("not a YAML mapping: write KEY: VALUE"))
		}
		return at(n, fmt.Errorf("%s: it must have keys: %s", key, strings.Join(keys(v.Type()), ", ")))
	}
	if err := unique(n, key); err != nil {
		return err
	}
	// The content alternates between keys and values.
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		field, ok := fieldOf(v, name)
		if !ok {
			return at(n.Content[i], unknown(v.Type(), name, key))
		}
		if err := fill(field, n.Content[i+1], join(key, name)); err != nil {
			return err
		}
	}
	return nil
}

func fieldOf(v reflect.Value, name string) (reflect.Value, bool) {
	for field, value := range v.Fields() {
		if keyOf(field) == name {
			return value, true
		}
	}
	return reflect.Value{}, false
}

func keys(t reflect.Type) []string {
	var all []string
	for field := range t.Fields() {
		all = append(all, keyOf(field))
	}
	return all
}

func unknown(t reflect.Type, name, key string) error {
	where := ""
	if key != "" {
		where = " in " + key
	}
	for _, known := range keys(t) {
		if strings.EqualFold(known, name) {
			return fmt.Errorf("unknown key %s%s: write %s", show(name), where, known)
		}
	}
	return fmt.Errorf("unknown key %s%s; known here: %s", show(name), where, strings.Join(keys(t), ", "))
}

// unique returns an error for a key that a mapping has twice.
func unique(n *yaml.Node, key string) error {
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i]
		if first, twice := lines[name.Value]; twice {
			return at(name, fmt.Errorf("%s is there twice, in line %d first: delete one", show(join(key, name.Value)), first))
		}
		lines[name.Value] = name.Line
	}
	return nil
}

// fillValue decodes a value that is no struct. Numbers and the like are texts, as
// a device's name may be one.
func fillValue(v reflect.Value, n *yaml.Node, key string) error {
	if n.Kind == yaml.MappingNode {
		if err := unique(n, key); err != nil {
			return err
		}
	}
	if err := n.Decode(v.Addr().Interface()); err != nil {
		return at(n, fmt.Errorf("%s: %w", key, wanted(v, n)))
	}
	return nil
}

// wanted says what a value should have been.
func wanted(v reflect.Value, n *yaml.Node) error {
	switch v.Interface().(type) {
	case []string:
		return errors.New("it must be a list, such as [a, b]")
	case map[string]string:
		return errors.New("it must have names and values, such as {a: b}")
	case time.Duration:
		return notDuration(n.Value)
	case int:
		return notWhole(n.Value)
	}
	return errors.New("it must be one value, without [ ], { } or - before it")
}

func at(n *yaml.Node, err error) error { return fmt.Errorf("line %d: %w", n.Line, err) }

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

var plain = regexp.MustCompile(`^[\w.-]{1,64}$`)

// show quotes what would not be seen or would break the line.
func show(name string) string {
	if plain.MatchString(name) {
		return name
	}
	return fmt.Sprintf("%.64q", name)
}

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", " ") }
