package score

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// FieldError names the field of score.data that was refused.
type FieldError struct {
	// Field is a path such as "services[0].image"; empty for the document itself.
	Field string
	// Message says what is wrong and what is allowed.
	Message string
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return "data: " + e.Message
	}
	return "data." + e.Field + ": " + e.Message
}

func (e *FieldError) Unwrap() error { return ErrInvalid }

func fieldErrorf(field, format string, args ...any) error {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
}

// FieldErrors are the mistakes of one score, two or more, in the order of its fields.
type FieldErrors []*FieldError

// shownErrors is how many mistakes an error names: it becomes one line of a status.
const shownErrors = 10

func (e FieldErrors) Error() string {
	var b strings.Builder
	for i, each := range e {
		if i == shownErrors {
			fmt.Fprintf(&b, "; and %d more", len(e)-shownErrors)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(each.Error())
	}
	return b.String()
}

// Unwrap returns each mistake.
func (e FieldErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, each := range e {
		errs[i] = each
	}
	return errs
}

// mistakes collects what is wrong with a score, so that its author sees all of it at once.
type mistakes struct{ found FieldErrors }

// maxMistakes bounds what a hostile document makes of the memory.
const maxMistakes = 1000

// add adds an error that fieldErrorf or err returned, or nothing for nil.
func (m *mistakes) add(err error) {
	var all FieldErrors
	var one *FieldError
	switch {
	case err == nil || len(m.found) >= maxMistakes:
	case errors.As(err, &all):
		m.found = append(m.found, all...)
	case errors.As(err, &one):
		m.found = append(m.found, one)
	}
}

func (m *mistakes) err() error {
	switch len(m.found) {
	case 0:
		return nil
	case 1:
		return m.found[0]
	}
	return m.found
}

// all joins the mistakes of several checks.
func all(errs ...error) error {
	var found mistakes
	for _, err := range errs {
		found.add(err)
	}
	return found.err()
}

// besides adds to the mistakes of a decoder those that a check of the decoded part found. A
// field that the decoder refused looks empty to the check, and so does one whose name is
// misspelt: what the check says about these is left out.
func besides(decoding, checking error, raw any) error {
	var found, checked mistakes
	found.add(decoding)
	checked.add(checking)
	decoder := found.found
	for _, m := range checked.found {
		if !follows(m.Field, decoder, raw) {
			found.add(m)
		}
	}
	return found.err()
}

// follows reports whether a mistake in a field may be due to one of those that were found
// before.
func follows(field string, earlier FieldErrors, raw any) bool {
	absent := !isGiven(raw, field)
	for _, e := range earlier {
		if e.Field == "" || field == e.Field || strings.HasPrefix(field, e.Field+".") || strings.HasPrefix(field, e.Field+"[") {
			return true
		}
		if absent && parent(field) == parent(e.Field) {
			return true
		}
	}
	return false
}

// parent cuts the last name off a path; join quotes names that hold a dot.
func parent(field string) string {
	if before, ok := strings.CutSuffix(field, `"`); ok {
		field = before[:max(0, strings.LastIndexByte(before, '"'))]
		return strings.TrimSuffix(field, ".")
	}
	return field[:max(0, strings.LastIndexByte(field, '.'))]
}

// isGiven reports whether a document has the field at a path.
func isGiven(raw any, path string) bool {
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		switch value := raw.(type) {
		case map[string]any:
			raw = value[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(value) {
				return false
			}
			raw = value[i]
		default:
			return false
		}
	}
	return raw != nil
}
