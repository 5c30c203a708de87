package derive

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/scoreschema"
)

// Sources are the Go files of package score.
type Sources struct {
	types  map[string]string            // comments of types
	fields map[string]map[string]string // comments of fields, by type and name
	names  map[string]map[string]string // names in JSON, by type and name in Go
	texts  map[string]ast.Expr          // values of constants and variables
	rules  []rule
}

// rule is a pattern that a check has, and the error that it gives.
type rule struct {
	complaint *regexp.Regexp
	words     int // how many characters of the error are the same for all values
	pattern   string
	longest   int
}

// decided are checks that have no pattern of their own in a condition: what their errors
// begin with, after the value, and the pattern that says as much as one can say.
var decided = map[string]string{
	"contains a NUL byte":          `^[^\x00]*$`,
	"contains a control character": `^[^\x00-\x1f\x7f]*$`,
	"does not begin with a slash":  `^/`,
	"is not the name of a signal":  `^SIG[A-Z0-9]+(\+[0-9]{1,2})?$`,
	"is not an IP address":         `^[0-9a-fA-F.:]+$`,
	"is not below /dev":            `^/dev/`,
	"has a control character":      `^[^\x00-\x1f\x7f]*$`,
}

// ReadSources reads the directory of package score.
func ReadSources(dir string) (*Sources, error) {
	s := &Sources{types: map[string]string{}, fields: map[string]map[string]string{}, names: map[string]map[string]string{}, texts: map[string]ast.Expr{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no sources in %s: %w", dir, os.ErrNotExist)
	}
	var parsed []*ast.File
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, f)
		s.declarations(f)
	}
	for _, f := range parsed {
		ast.Inspect(f, s.check)
	}
	return s, nil
}

func (s *Sources) declarations(f *ast.File) {
	for _, d := range f.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range decl.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				s.types[spec.Name.Name] = text(spec.Doc, decl.Doc)
				if t, ok := spec.Type.(*ast.StructType); ok {
					s.structure(spec.Name.Name, t)
				}
			case *ast.ValueSpec:
				for i, name := range spec.Names[:min(len(spec.Names), len(spec.Values))] {
					s.texts[name.Name] = spec.Values[i]
				}
			}
		}
	}
}

// structure notes the fields of a type. A comment that is about a field and the next one
// stands before the first.
func (s *Sources) structure(name string, t *ast.StructType) {
	comments, names, before := map[string]string{}, map[string]string{}, ""
	for _, f := range t.Fields.List {
		if f.Tag == nil || len(f.Names) != 1 {
			continue
		}
		tag, _ := strconv.Unquote(f.Tag.Value)
		inJSON, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		field := f.Names[0].Name
		names[field] = inJSON
		comment := text(f.Doc)
		if comment == "" && regexp.MustCompile(`\b`+field+`\b`).MatchString(before) {
			comment = before
		}
		comments[field], before = comment, comment
	}
	s.fields[name], s.names[name] = comments, names
}

func text(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if g != nil {
			return strings.Join(strings.Fields(g.Text()), " ")
		}
	}
	return ""
}

// ofType is what a type is for.
func (s *Sources) ofType(name string) string { return s.inJSON(name, s.types[name]) }

// ofField is what a field is for: by its own comment, or by that of what it is made of.
func (s *Sources) ofField(name, field, element string) string {
	if comment := s.fields[name][field]; comment != "" {
		return s.inJSON(name, comment)
	}
	return s.ofType(element)
}

// inJSON puts the words of JSON in the place of those of Go.
func (s *Sources) inJSON(name, comment string) string {
	words := regexp.MustCompile(`\b[A-Za-z][A-Za-z0-9]*\b`)
	return words.ReplaceAllStringFunc(comment, func(word string) string {
		if inJSON, ok := s.names[name][word]; ok {
			return inJSON
		}
		if value, ok := s.constant(word); ok && ast.IsExported(word) {
			return value
		}
		switch word {
		case name:
			if strings.HasSuffix(name, "V0") { // of a score
				return name
			}
			return strings.ToLower(name[:1]) + name[1:]
		case "nil":
			return "absent"
		}
		return word
	})
}

// constant is the value of a constant as one writes it in YAML.
func (s *Sources) constant(name string) (string, bool) {
	switch value := s.texts[name].(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(value.Value); err == nil {
			return text, true
		}
		return value.Value, true
	case *ast.BinaryExpr: // 30 * time.Second
		return s.duration(value)
	}
	return "", false
}

func (s *Sources) duration(value *ast.BinaryExpr) (string, bool) {
	n, isNumber := value.X.(*ast.BasicLit)
	unit, isUnit := value.Y.(*ast.SelectorExpr)
	if !isNumber || !isUnit || value.Op != token.MUL {
		return "", false
	}
	return n.Value + " " + strings.ToLower(unit.Sel.Name) + "s", true
}

// check finds the conditions by which values are refused, and the errors that they give.
func (s *Sources) check(node ast.Node) bool {
	switch node := node.(type) {
	case *ast.IfStmt:
		s.refusal(node.Cond, node.Body.List)
	case *ast.CaseClause:
		for _, condition := range node.List {
			s.refusal(condition, node.Body)
		}
	}
	return true
}

// refusal notes a rule when a condition is that a pattern does not match.
func (s *Sources) refusal(condition ast.Expr, body []ast.Stmt) {
	format := ""
	for _, statement := range body {
		ast.Inspect(statement, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && nameOf(call.Fun) == "fieldErrorf" && format == "" {
				if lit, ok := call.Args[1].(*ast.BasicLit); ok {
					format, _ = strconv.Unquote(lit.Value)
				}
			}
			return true
		})
	}
	r := rule{}
	ast.Inspect(condition, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if call, ok := n.X.(*ast.CallExpr); ok && n.Op == token.GTR && nameOf(call.Fun) == "len" {
				r.longest = s.number(n.Y)
			}
		case *ast.CallExpr:
			if of, ok := n.Fun.(*ast.SelectorExpr); ok && of.Sel.Name == "MatchString" {
				r.pattern = s.pattern(nameOf(of.X))
			}
		}
		return true
	})
	if r.pattern != "" && format != "" {
		r.complaint, r.words = likeFormat(format), len(verb.ReplaceAllString(format, ""))
		s.rules = append(s.rules, r)
	}
}

func nameOf(e ast.Expr) string {
	if id, ok := e.(*ast.Ident); ok {
		return id.Name
	}
	return ""
}

// verb is one of a format of package fmt.
var verb = regexp.MustCompile(`%[-+# 0]*[0-9]*(\\?\.[0-9]+)?[a-z]`)

// likeFormat matches what a format gives.
func likeFormat(format string) *regexp.Regexp {
	return regexp.MustCompile(`(?s)^` + verb.ReplaceAllString(regexp.QuoteMeta(format), `.*`) + `$`)
}

// number is the value of a number or of a constant that is one.
func (s *Sources) number(e ast.Expr) int {
	switch e := e.(type) {
	case *ast.BasicLit:
		n, _ := strconv.Atoi(e.Value)
		return n
	case *ast.Ident:
		return s.number(s.texts[e.Name])
	case *ast.BinaryExpr:
		if x, y := s.number(e.X), s.number(e.Y); e.Op == token.SHL {
			return x << y
		} else if e.Op == token.MUL {
			return x * y
		}
	}
	return 0
}

// pattern is the text of a regular expression.
func (s *Sources) pattern(name string) string {
	call, ok := s.texts[name].(*ast.CallExpr)
	if !ok || len(call.Args) != 1 {
		return ""
	}
	return s.joined(call.Args[0])
}

// joined is the text of strings and constants that are added up.
func (s *Sources) joined(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value)
		return text
	case *ast.Ident:
		return s.joined(s.texts[e.Name])
	case *ast.BinaryExpr:
		return s.joined(e.X) + s.joined(e.Y)
	case *ast.ParenExpr:
		return s.joined(e.X)
	}
	return ""
}

var tooLong = regexp.MustCompile(`is longer than ([0-9]+) bytes`)

// ruleOf returns the rule that a complaint is of: the one with the most words of its own, for
// "is not the name of a %s" is also how "is not the name of a header" looks.
func (s *Sources) ruleOf(complaint string) (rule, bool) {
	best, most := rule{}, 0
	for _, r := range s.rules {
		if r.words > most && r.complaint.MatchString(complaint) {
			best, most = r, r.words
		}
	}
	for _, words := range slices.Sorted(maps.Keys(decided)) {
		if len(words) >= most && strings.Contains(complaint, words) {
			best, most = rule{pattern: decided[words]}, len(words)
		}
	}
	if m := tooLong.FindStringSubmatch(complaint); m != nil {
		best.longest, _ = strconv.Atoi(m[1])
	}
	return best, best.longest > 0 || most > 0
}

// add adds the rule to a schema of a text that may have some values whatever the rule says.
func (r rule) add(s *scoreschema.Schema, besides []string) {
	if r.longest > 0 && (s.MaxLength == 0 || r.longest < s.MaxLength) {
		s.MaxLength = r.longest
	}
	pattern := r.pattern
	for _, value := range besides {
		if pattern != "" && !regexp.MustCompile(pattern).MatchString(value) {
			pattern = "^" + value + "$|" + pattern
		}
	}
	switch {
	case pattern == "" || pattern == s.Pattern || slices.ContainsFunc(s.AllOf, func(p scoreschema.Pattern) bool { return p.Pattern == pattern }):
	case s.Pattern == "":
		s.Pattern = pattern
	default:
		s.AllOf = append(s.AllOf, scoreschema.Pattern{Pattern: pattern})
	}
}
