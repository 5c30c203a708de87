package derive

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/scoreschema"
)

// probe asks the validation about values at one place of an example.
type probe struct {
	validate Validate
	example  any
	at       path
}

// probe returns one for a path that an example has, or that has the same field elsewhere.
func (d *Deriver) probe(at path, name string) (probe, bool) {
	if len(at) == 0 {
		return probe{}, false
	}
	for _, place := range append([]path{at}, d.places[name]...) {
		for _, example := range d.Examples {
			if found, ok := find(example, place); ok {
				return probe{d.Validate, example, found}, true
			}
		}
	}
	return probe{}, false
}

// complaints are what the validation says of a value at the place itself, and not of what
// is beside it. An element of a list of texts has no errors of its own: they name the list.
func (p probe) complaints(v any) []string {
	places := []string{p.at.String()}
	if last := p.at[len(p.at)-1]; last[0] >= '0' && last[0] <= '9' {
		places = append(places, p.at[:len(p.at)-1].String())
	}
	var found []string
	for _, m := range mistakes(p.validate(encode(with(p.example, p.at, v)))) {
		if slices.Contains(places, m.Field) {
			found = append(found, m.Message)
		}
	}
	return found
}

func (p probe) refuses(v any) bool { return len(p.complaints(v)) > 0 }

// bound adds to a schema what the validation takes at the place.
func (p probe) bound(s *scoreschema.Schema, sources *Sources) {
	switch s.Type[0] {
	case "integer":
		s.Minimum, s.Maximum = p.end(-1), p.end(1)
	case "string":
		p.text(s, sources)
	case "array":
		p.list(s)
	case "object":
		p.size(s)
	}
	if !p.refuses(nil) || p.isFirst() {
		s.Type = append(s.Type, "null")
	}
}

// isFirst reports whether the place is in a list of texts, whose first one may have to be
// more than the others.
func (p probe) isFirst() bool {
	_, isText := get(p.example, p.at).(string)
	return isText && p.at[len(p.at)-1] == "0"
}

// most is the largest whole number that an int holds on each architecture.
const most = math.MaxInt32

// end looks for the last number that is taken in a direction; nil for none. A bound that
// the error does not name is not one of the field: it comes from another field's value.
func (p probe) end(direction int) *int {
	good, _ := strconv.Atoi(strings.TrimSuffix(string(encode(get(p.example, p.at))), ".0"))
	bad := most * direction
	if !p.refuses(bad) {
		return nil
	}
	for bad-good > 1 || good-bad > 1 {
		middle := good + (bad-good)/2
		if p.refuses(middle) {
			bad = middle
		} else {
			good = middle
		}
	}
	names := func(text string) bool { return slices.Contains(numbers.FindAllString(text, -1), strconv.Itoa(good)) }
	if !slices.ContainsFunc(p.complaints(bad), names) {
		return nil
	}
	return &good
}

var (
	numbers = regexp.MustCompile(`-?[0-9]+`)
	atMost  = regexp.MustCompile(`at most ([0-9]+) are allowed`)
	unknown = regexp.MustCompile(`(?: is unknown|is empty|is not known here): use (.*)$`)
)

// junk are texts of which each kind of text refuses some.
var junk = []string{"", "\x00", "\x01", "é", "-", " ", "A B", "/..", "//", "/a", "..", "1x", "zzz", strings.Repeat("a", 6000), "/" + strings.Repeat("a", 6000), "SIGTERM "}

// text adds what a text may be: one of a list, or of a pattern.
func (p probe) text(s *scoreschema.Schema, sources *Sources) {
	empty := !p.refuses("") || p.isFirst()
	var besides []string
	if empty {
		besides = append(besides, "")
	}
	if !p.refuses("/") { // which is no directory below another one
		besides = append(besides, "/")
	}
	for _, value := range junk {
		for _, complaint := range p.complaints(value) {
			if m := unknown.FindStringSubmatch(complaint); m != nil {
				p.oneOf(s, m[1])
			}
			if rule, ok := sources.ruleOf(complaint); ok {
				rule.add(s, besides)
			}
		}
	}
	if empty && s.Enum != nil {
		s.Enum = append(s.Enum, "")
	}
	if s.Enum != nil && !p.refuses(nil) { // null is a type beside others, and here it has to be a value, too
		s.Enum = append(s.Enum, nil)
	}
	if !empty && s.Pattern == "" && s.Enum == nil {
		s.MinLength = 1
	}
}

// oneOf adds the words that an error proposes and the validation takes.
func (p probe) oneOf(s *scoreschema.Schema, words string) {
	for _, word := range strings.FieldsFunc(words, func(r rune) bool { return r == ' ' || r == ',' }) {
		if word != "or" && !p.refuses(word) && !slices.Contains(s.Enum, any(word)) {
			s.Enum = append(s.Enum, word)
		}
	}
}

func (p probe) list(s *scoreschema.Schema) {
	if items, ok := get(p.example, p.at).([]any); ok && len(items) > 0 {
		for _, n := range []int{50, 100, 300} { // more may be too long for a score
			if s.MaxItems == 0 {
				s.MaxItems = mostOf(p.complaints(slices.Repeat(items[:1], n)))
			}
		}
	}
	if p.refuses([]any{}) {
		s.MinItems = 1
	}
}

// size adds how many entries a map may have.
func (p probe) size(s *scoreschema.Schema) {
	if s.Properties != nil {
		return
	}
	large := map[string]any{}
	for i := range 1000 {
		large["example.com/k"+strconv.Itoa(i)] = "x"
	}
	s.MaxProperties = mostOf(p.complaints(large))
}

func mostOf(complaints []string) int {
	for _, text := range complaints {
		if m := atMost.FindStringSubmatch(text); m != nil {
			n, _ := strconv.Atoi(m[1])
			return n
		}
	}
	return 0
}
