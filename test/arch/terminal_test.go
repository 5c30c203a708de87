package arch_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// programs are those that people run on a terminal.
var programs = []string{"cmd/fleet-agent", "cmd/fleet-server", "cmd/kubectl-fleet"}

// TestEverythingIsPrintedByWayOfPrintable: run wraps both streams, and nothing
// else knows the streams of the process. So whatever a command prints, also one
// that comes later, steers no terminal.
func TestEverythingIsPrintedByWayOfPrintable(t *testing.T) {
	t.Parallel()
	for _, program := range programs {
		wrapped := map[string]bool{}
		each(t, filepath.Join("..", "..", program), func(file *ast.File, at func(ast.Node) string) {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) != 1 {
					return true
				}
				if name := selector(call.Fun); name == "root.SetOut" || name == "root.SetErr" {
					inner, ok := call.Args[0].(*ast.CallExpr)
					if wrapped[name] = ok && selector(inner.Fun) == "printable.NewWriter"; !wrapped[name] {
						t.Errorf("%s: %s without printable.NewWriter", at(n), name)
					}
				}
				return true
			})
		})
		if len(wrapped) != 2 {
			t.Errorf("%s wraps %v", program, wrapped)
		}
	}
	for _, dir := range append([]string{"pkg"}, programs...) {
		each(t, filepath.Join("..", "..", dir), func(file *ast.File, at func(ast.Node) string) {
			ast.Inspect(file, func(n ast.Node) bool {
				if d, ok := n.(*ast.FuncDecl); ok && d.Name.Name == "main" && file.Name.Name == "main" {
					return false // hands the streams over
				}
				e, ok := n.(ast.Expr)
				if !ok {
					return true
				}
				switch name := selector(e); name {
				case "os.Stdout", "os.Stderr", "fmt.Print", "fmt.Printf", "fmt.Println":
					t.Errorf("%s: %s prints past package printable", at(n), name)
				}
				return true
			})
		})
	}
}

func selector(e ast.Expr) string {
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := s.X.(*ast.Ident); ok {
		return x.Name + "." + s.Sel.Name
	}
	return ""
}

// each parses the files below a directory that are no tests and no tools of the
// build.
func each(t *testing.T, dir string, do func(file *ast.File, at func(ast.Node) string)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, c := range file.Comments {
			if c.Pos() < file.Package && strings.Contains(c.List[0].Text, "go:build ignore") {
				return nil
			}
		}
		do(file, func(n ast.Node) string { return set.Position(n.Pos()).String() })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
