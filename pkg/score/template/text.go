package template

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxValue is the longest value of a device in bytes that a text takes.
const MaxValue = 4 << 10

// opening is the beginning of an expression, or of the text that an escape stands for.
var opening = regexp.MustCompile(`\$?\$\{[A-Za-z_][A-Za-z0-9_]*\.`)

// Text is a text with expressions.
type Text struct{ parts []part }

// part is a piece of text, or an expression.
type part struct {
	text string
	// source is that of an expression, whose default is text if it has one.
	source     *Source
	hasDefault bool
}

// Is reports whether a text has expressions or escapes. Others are rendered as they are.
func Is(text string) bool { return strings.Contains(text, "${") && opening.MatchString(text) }

// Parse parses a text. Its error is one line, without the text around the mistake.
func Parse(text string) (Text, error) {
	var t Text
	for {
		at := opening.FindStringIndex(text)
		if at == nil {
			t.literal(text)
			return t, nil
		}
		t.literal(text[:at[0]])
		if strings.HasPrefix(text[at[0]:], "$$") {
			t.literal(text[at[0]+1 : at[1]])
			text = text[at[1]:]
			continue
		}
		length, err := t.expression(text[at[0]:])
		if err != nil {
			return Text{}, err
		}
		text = text[at[0]+length:]
	}
}

func (t *Text) literal(text string) {
	if text != "" {
		t.parts = append(t.parts, part{text: text})
	}
}

// expression parses the one that a text begins with, and returns its length.
func (t *Text) expression(text string) (length int, err error) {
	inner, _, ended := strings.Cut(text[len("${"):], "}")
	if !ended {
		return 0, fmt.Errorf("%.64q has no end: } is missing", text)
	}
	path, fallback, hasDefault := strings.Cut(inner, ":-")
	if strings.Contains(fallback, "${") {
		return 0, fmt.Errorf("the default of ${%s is another expression: a default is a text", shown(path))
	}
	source, err := parseSource(path)
	if err != nil {
		return 0, err
	}
	t.parts = append(t.parts, part{text: fallback, source: &source, hasDefault: hasDefault})
	return len("${") + len(inner) + len("}"), nil
}

// Sources returns the values that the text uses, in their order, each once.
func (t Text) Sources() (sources []Source) {
	for _, p := range t.parts {
		if p.source != nil && !slices.Contains(sources, *p.source) {
			sources = append(sources, *p.source)
		}
	}
	return sources
}

// Values returns a value of a device, and false if the device has none.
type Values func(Source) (string, bool)

// Render puts values in the place of expressions. What a value holds is text, whatever it
// looks like. The error names the value that is missing, or what is wrong with it. The result
// has at most most bytes.
func (t Text) Render(values Values, most int) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		text := p.text
		if p.source != nil {
			var err error
			if text, err = p.value(values); err != nil {
				return "", err
			}
		}
		if b.Len()+len(text) > most {
			return "", fmt.Errorf("has more than %d bytes with the values of this device", most)
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

func (p part) value(values Values) (string, error) {
	value, has := values(*p.source)
	switch {
	case p.hasDefault && value == "":
		return p.text, nil
	case !has:
		return "", fmt.Errorf("this device has no %s, and the score gives no default", p.source)
	case len(value) > MaxValue:
		return "", fmt.Errorf("%s of this device has %d bytes, at most %d are allowed", p.source, len(value), MaxValue)
	case !utf8.ValidString(value):
		return "", fmt.Errorf("%s of this device is not UTF-8", p.source)
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", fmt.Errorf("%s of this device has a control character", p.source)
	}
	return value, nil
}

// Quote returns the text that is rendered as this one.
func Quote(text string) string {
	return expressionStart.ReplaceAllString(text, "$$$0")
}

var expressionStart = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\.`)
