package score

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/score/template"
)

// place is what a text with expressions stands for. Fields say it in their tag "template";
// those without it may have none.
type place string

const (
	nowhere   place = ""
	ofText    place = "text"
	ofPath    place = "path"    // absolute
	ofDevice  place = "device"  // below /dev
	ofAddress place = "address" // of IP
)

// Template is a score whose texts differ from device to device.
type Template struct {
	document *Document
	sources  []template.Source
}

// Template returns nil for a score that is the same on each device. The score must be valid.
func (d *Document) Template() *Template {
	if !d.isTemplate() {
		return nil
	}
	t := &Template{document: d}
	used := map[template.Source]bool{}
	r := rewriter{text: func(_, text string, _ place) (string, error) {
		if parsed, err := template.Parse(text); err == nil {
			for _, s := range parsed.Sources() {
				used[s] = true
			}
		}
		return text, nil
	}}
	r.value("", d.data, types[d.typ].of, nowhere)
	t.sources = slices.SortedFunc(maps.Keys(used), func(a, b template.Source) int { return strings.Compare(a.String(), b.String()) })
	return t
}

// Sources are the values of a device that the score uses, in an order that depends on nothing
// else.
func (t *Template) Sources() []template.Source { return t.sources }

// Render returns the score of one device. It has to be validated as any other: what a device
// claims is in it. Errors wrap ErrInvalid, and name the field and what the device lacks.
func (t *Template) Render(values template.Values) (*Document, error) {
	room := MaxSize
	r := rewriter{text: func(path, text string, _ place) (string, error) {
		parsed, err := template.Parse(text)
		if err != nil {
			return "", fieldErrorf(path, "%s", err)
		}
		rendered, err := parsed.Render(values, room)
		if err != nil {
			return "", fieldErrorf(path, "%s", err)
		}
		room -= len(rendered)
		return rendered, nil
	}}
	data := r.value("", t.document.data, types[t.document.typ].of, nowhere)
	if err := r.found.err(); err != nil {
		return nil, err
	}
	return &Document{typ: t.document.typ, data: data, rendered: true}, nil
}

// isTemplate reports whether some text has an expression or an escape.
func (d *Document) isTemplate() bool {
	return IsKnown(d.typ) && !d.rendered && hasTemplate(d.data)
}

func hasTemplate(raw any) bool {
	switch value := raw.(type) {
	case string:
		return template.Is(value)
	case []any:
		return slices.ContainsFunc(value, hasTemplate)
	case map[string]any:
		for _, v := range value {
			if hasTemplate(v) {
				return true
			}
		}
	}
	return false
}

// standIn returns what the score may be on a device, to be validated in its place, and the
// mistakes in its expressions.
func (d *Document) standIn() (any, error) {
	if !d.isTemplate() {
		return d.data, nil
	}
	r := rewriter{text: func(path, text string, p place) (string, error) {
		parsed, err := template.Parse(text)
		switch {
		case p == nowhere:
			return text, fieldErrorf(path, "an expression may not be here, see the reference for where: for the text write $${…")
		case err != nil:
			return p.standIn(text, template.Text{}), fieldErrorf(path, "%s", err)
		}
		return p.standIn(text, parsed), nil
	}}
	return r.value("", d.data, types[d.typ].of, nowhere), r.found.err()
}

// standIn is a text that is valid in its place. Two that differ have stand-ins that differ:
// whether they are the same on a device, only the device shows.
func (p place) standIn(text string, parsed template.Text) string {
	if p == ofAddress {
		sum := sha256.Sum256([]byte(text))
		return fmt.Sprintf("198.18.%d.%d", sum[0], sum[1]) // for tests of networks: RFC 2544
	}
	stand, _ := parsed.Render(func(s template.Source) (string, bool) { // fails never: it has no bound
		sum := sha256.Sum256([]byte(s.String()))
		return "x" + hex.EncodeToString(sum[:4]), true
	}, maxDocument)
	switch begins := strings.HasPrefix(stand, "/"); {
	case p == ofPath && !begins:
		return "/" + stand
	case p == ofDevice && !begins:
		return "/dev/" + stand
	}
	return stand
}

// afterExpressions adds to the mistakes in expressions those of other fields.
func afterExpressions(expressions, rest error) error {
	if expressions == nil {
		return rest
	}
	var found, others mistakes
	found.add(expressions)
	others.add(rest)
	for _, m := range others.found {
		if !slices.ContainsFunc(found.found, func(e *FieldError) bool { return e.Field == m.Field }) {
			found.add(m)
		}
	}
	return found.err()
}

var podmanV0Type = reflect.TypeFor[PodmanV0]()

// rewriter copies a parsed score, and puts something else in the place of each text with an
// expression. What is no such text, and what the type does not have, stays as it is.
type rewriter struct {
	text  func(path, text string, p place) (string, error)
	found mistakes
}

func (r *rewriter) value(path string, raw any, t reflect.Type, p place) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch value := raw.(type) {
	case string:
		if t.Kind() != reflect.String || !template.Is(value) {
			return value
		}
		text, err := r.text(path, value, p)
		r.found.add(err)
		return text
	case []any:
		if t.Kind() == reflect.Slice {
			return r.list(path, value, t.Elem(), p)
		}
	case map[string]any:
		return r.object(path, value, t, p)
	}
	return raw
}

func (r *rewriter) list(path string, list []any, element reflect.Type, p place) []any {
	items := make([]any, len(list))
	for i, item := range list {
		items[i] = r.value(index(path, i), item, element, p)
	}
	return items
}

func (r *rewriter) object(path string, object map[string]any, t reflect.Type, p place) map[string]any {
	fields := maps.Clone(object)
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if inner, at, ok := member(t, name, p); ok {
			fields[name] = r.value(join(path, name), object[name], inner, at)
		}
	}
	return fields
}

// member returns the type and the place of what an object of a type has under a name.
func member(t reflect.Type, name string, p place) (reflect.Type, place, bool) {
	switch t.Kind() {
	case reflect.Map:
		return t.Elem(), p, true
	case reflect.Struct:
		for field := range t.Fields() {
			if known, _, _ := strings.Cut(field.Tag.Get("json"), ","); known == name {
				return field.Type, place(field.Tag.Get("template")), true
			}
		}
	}
	return nil, nowhere, false
}
