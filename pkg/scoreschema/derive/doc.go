// Package derive makes the JSON Schema of a score type of what there is already: the
// fields of its Go types, their comments, and what its validation says when it is
// asked about one value after the other. Nothing of it is written by hand a second
// time. The generator and tests import it, and no program.
package derive

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/scoreschema"
)

// Validate validates the data of a score. Its error is of package score.
type Validate func(data []byte) error

// PodmanV0 is the validation of PodmanV0.
func PodmanV0(data []byte) error {
	_, err := score.Validate(score.TypePodmanV0, data)
	return err
}

// FilesV0 is the validation of FilesV0.
func FilesV0(data []byte) error {
	_, err := score.Validate(score.TypeFilesV0, data)
	return err
}

// Deriver derives a schema.
type Deriver struct {
	// Sources say what fields are for, and which patterns their checks have.
	Sources *Sources
	// Examples are data that the validation takes, and that have each field.
	Examples []any
	Validate Validate

	// places are those of a field of a type: what a probe may be is the same in each.
	places map[string][]path
}

// Examples reads the data of the scores of all manifests in a directory.
func Examples(dir string) ([]any, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no examples in %s: %w", dir, cmp.Or(err, os.ErrNotExist))
	}
	var all []any
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		found := len(all)
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			var manifest struct {
				Spec struct {
					Score struct {
						Data map[string]any `json:"data"`
					} `json:"score"`
				} `json:"spec"`
			}
			if err := yaml.Unmarshal([]byte(document), &manifest); err != nil {
				return nil, fmt.Errorf("reading %s: %w", file, err)
			}
			if data := manifest.Spec.Score.Data; data != nil {
				all = append(all, data)
			}
		}
		if len(all) == found {
			return nil, fmt.Errorf("%s has no score", file)
		}
	}
	return all, nil
}

// Schema derives that of a Go type.
func (d *Deriver) Schema(t reflect.Type) (*scoreschema.Schema, error) {
	for i, example := range d.Examples {
		if err := d.Validate(encode(example)); err != nil {
			return nil, fmt.Errorf("example %d: %w", i, err)
		}
	}
	d.places = map[string][]path{}
	d.of(t, nil, "") // which finds the places
	s := d.of(t, nil, "")
	s.Description = d.Sources.ofType(t.Name())
	return s, nil
}

// of derives the schema of what is at a path. Its name is that of the field in its type.
func (d *Deriver) of(t reflect.Type, at path, name string) *scoreschema.Schema {
	d.places[name] = append(d.places[name], at)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var s *scoreschema.Schema
	switch t.Kind() {
	case reflect.Struct:
		s = d.object(t, at)
	case reflect.Slice:
		s = &scoreschema.Schema{Type: scoreschema.Types{"array"}, Items: d.of(t.Elem(), at.item(), name+each)}
	case reflect.Map:
		s = &scoreschema.Schema{Type: scoreschema.Types{"object"}, AdditionalProperties: d.of(t.Elem(), at.value(), name+other)}
	case reflect.Bool:
		s = &scoreschema.Schema{Type: scoreschema.Types{"boolean"}}
	case reflect.Int:
		s = &scoreschema.Schema{Type: scoreschema.Types{"integer"}}
	default:
		s = &scoreschema.Schema{Type: scoreschema.Types{"string"}}
	}
	if p, ok := d.probe(at, name); ok {
		p.bound(s, d.Sources)
	}
	return s
}

func (d *Deriver) object(t reflect.Type, at path) *scoreschema.Schema {
	s := &scoreschema.Schema{Type: scoreschema.Types{"object"}, Properties: map[string]*scoreschema.Schema{}, AdditionalProperties: false}
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		key := t.Name() + "." + name
		property := d.of(field.Type, at.field(name), key)
		property.Description = d.Sources.ofField(t.Name(), field.Name, elementName(field.Type))
		if field.Tag.Get("template") != "" {
			takeExpressions(property)
		}
		s.Properties[name] = property
		if p, ok := d.probe(at.field(name), key); ok && options == "" && p.refuses(absent{}) {
			s.Required = append(s.Required, name)
		}
	}
	slices.Sort(s.Required)
	return s
}

// elementName is the name of the type that a field is made of.
func elementName(t reflect.Type) string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t.Name()
}

// mistakes takes the errors of package score apart.
func mistakes(err error) []*score.FieldError {
	if all, ok := errors.AsType[score.FieldErrors](err); ok {
		return all
	}
	if one, ok := errors.AsType[*score.FieldError](err); ok {
		return []*score.FieldError{one}
	}
	return nil
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding an example: %v", err)) // it was JSON before
	}
	return data
}
