// Package settings fills the configuration struct of a program: flag over
// environment over file over default. Both programs use it, so it imports the
// standard library, YAML and flags only.
//
// A field of the struct names its key in the file, its environment variable and
// its flag in tags:
//
//	DataDir string `yaml:"dataDir" env:"FLEET_SERVER_DATA_DIR" flag:"data-dir" usage:"directory …"`
//
// It is strict, since whoever mistypes a setting believes that it is set: keys
// and variables that don't exist, keys that appear twice, values of another type
// and what is no configuration file at all are errors of one line, which says
// where and what to do.
//
// It decodes YAML nodes by itself. koanf and viper read a file into a map first:
// lines are lost, keys that no field has are dropped unless mapstructure is told
// otherwise, and a value of another type is converted. sigs.k8s.io/yaml goes by
// way of JSON, which knows no lines and takes keys in any case.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// ErrInvalid is wrapped by every error about the content of a configuration.
var ErrInvalid = errors.New("invalid configuration")

// Program says where the settings of a program come from.
type Program struct {
	// Prefix begins the names of its environment variables: FLEET_AGENT_.
	Prefix string
	// File is its configuration file when nobody names another.
	File string
	// Warn is told of variables that don't exist, in one line; when it is nil they are
	// errors. A program that nobody can reach once it does not start should not stop at
	// an upgrade for a variable that never meant anything.
	Warn func(line string)
}

// Setting is a field of a configuration struct that holds a value.
type Setting struct {
	// Key is that of the file, with dots for mappings: podman.socket.
	Key string
	// Env and Flag are the names of its variable and its flag; empty for none.
	Env, Flag string
	// Usage says in a few words what it is.
	Usage string

	value reflect.Value
}

// Of returns the settings of a configuration struct in their order. The argument
// is a pointer to it.
func Of(config any) []Setting {
	return below(reflect.ValueOf(config).Elem(), "")
}

func below(v reflect.Value, prefix string) []Setting {
	var all []Setting
	for field, value := range v.Fields() {
		key := prefix + keyOf(field)
		if value.Kind() == reflect.Struct {
			all = append(all, below(value, key+".")...)
			continue
		}
		all = append(all, Setting{
			Key: key, Env: field.Tag.Get("env"), Flag: field.Tag.Get("flag"), Usage: field.Tag.Get("usage"), value: value,
		})
	}
	return all
}

func keyOf(field reflect.StructField) string { return field.Tag.Get("yaml") }

// Text is the value as it stands in the environment.
func (s Setting) Text() string {
	switch v := s.value.Interface().(type) {
	case []string:
		return strings.Join(v, ",")
	case string:
		return v
	}
	return fmt.Sprint(s.value.Interface())
}

// List reports whether the setting has any number of values.
func (s Setting) List() bool { return s.value.Kind() == reflect.Slice }

// Load fills a configuration that holds the defaults. The file may be missing if
// optional is set, and flags may be nil. Errors wrap ErrInvalid, or come from the
// disk.
func (p Program) Load(config any, path string, optional bool, env Env, flags *pflag.FlagSet) error {
	if err := File(path, config); err != nil && !(optional && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	all := Of(config)
	if err := env.fill(p, all); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if flags != nil {
		fillFromFlags(all, flags)
	}
	return nil
}

// parse sets a value that a person wrote in one word.
func (s Setting) parse(text string) error {
	switch v := s.value.Addr().Interface().(type) {
	case *string:
		*v = text
	case *[]string:
		*v = trimmed(strings.Split(text, ","))
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return notDuration(text)
		}
		*v = d
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return notWhole(text)
		}
		*v = n
	case *map[string]string:
		pairs := map[string]string{}
		for pair := range strings.SplitSeq(text, ",") {
			name, value, ok := strings.Cut(pair, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			if !ok || name == "" {
				return fmt.Errorf("%.64q is not of the form NAME=VALUE", pair)
			}
			if _, twice := pairs[name]; twice {
				return fmt.Errorf("%.64q is there twice", name)
			}
			pairs[name] = value
		}
		*v = pairs
	default:
		return fmt.Errorf("no setting can be a %s", s.value.Type()) // a mistake of the program's
	}
	return nil
}

func notWhole(text string) error { return fmt.Errorf("%.64q is not a whole number", text) }

// trimmed are the items of a list, written as a, b.
func trimmed(items []string) []string {
	for i, item := range items {
		items[i] = strings.TrimSpace(item)
	}
	return items
}

func notDuration(text string) error {
	return fmt.Errorf("%.64q is not a duration such as 30s", text)
}
