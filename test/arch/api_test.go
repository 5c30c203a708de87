package arch_test

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// writers are where controllers write to the API.
var writers = []string{"pkg/controllers/assigner", "pkg/controllers/deployment", "pkg/controllers/device", "pkg/controllers/enrollment", "pkg/controllers/revisions", "pkg/apiserver/collector"}

// writing are the methods of clients of the API that write.
var writing = map[string]bool{
	"Create": true, "Update": true, "UpdateStatus": true, "Patch": true, "Delete": true, "DeleteCollection": true, "Finalize": true, "Apply": true,
}

// TestWritesAreCounted: a file of a controller counts as many writes as it makes, so that
// one that comes later is in the metric, too.
func TestWritesAreCounted(t *testing.T) {
	t.Parallel()
	all := 0
	for _, dir := range writers {
		each(t, filepath.Join("..", "..", dir), func(file *ast.File, at func(ast.Node) string) {
			writes, counted := 0, 0
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				switch {
				case !ok:
				case method.Sel.Name == "Wrote":
					counted++
				case writing[method.Sel.Name] && isContext(call):
					writes++
				}
				return true
			})
			if all += writes; writes > counted {
				t.Errorf("%s: %d writes to the API, of which %d are counted: call Metrics.Wrote for each", at(file), writes, counted)
			}
		})
	}
	if all < 20 {
		t.Errorf("the search finds %d writes only", all)
	}
}

// isContext reports whether the first argument of a call is a context.
func isContext(call *ast.CallExpr) bool {
	if len(call.Args) == 0 {
		return false
	}
	first, ok := call.Args[0].(*ast.Ident)
	return ok && first.Name == "ctx"
}

// TestInformersStripManagedFields: whoever makes an informer gives it a transform, which
// tests of the transforms hold to leave managed fields out.
func TestInformersStripManagedFields(t *testing.T) {
	t.Parallel()
	all := 0
	each(t, filepath.Join("..", "..", "pkg"), func(file *ast.File, at func(ast.Node) string) {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			makes, transforms := token.NoPos, false
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					name := s.Sel.Name
					transforms = transforms || name == "WithTransform" || name == "SetTransform"
					if strings.HasPrefix(name, "New") && (strings.Contains(name, "InformerFactory") || strings.HasSuffix(name, "Informer")) {
						makes = s.Pos()
					}
				}
				return true
			})
			// An informer of ours is made by functions that do so themselves.
			if ours := f.Name.Name == "newInformers"; makes.IsValid() && !ours {
				if all++; !transforms {
					t.Errorf("%s: %s makes an informer without a transform", at(f), f.Name.Name)
				}
			}
		}
	})
	if all < 3 {
		t.Errorf("the search finds %d informers only", all)
	}
}
