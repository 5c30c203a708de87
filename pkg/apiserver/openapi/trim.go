//go:build ignore

// Trim cuts the file that openapi-gen wrote down to the definitions which the
// named kinds need. The core group alone has 240 definitions, mostly of pods
// and volumes, that no kind of this server refers to.
//
// Usage: go run trim.go KIND…
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
)

func main() {
	if err := trim("zz_generated.openapi.go", os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "trim:", err)
		os.Exit(1)
	}
}

func trim(path string, kinds []string) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	paths := importPaths(file)
	funcs := map[string]*ast.FuncDecl{}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			funcs[f.Name.Name] = f
		}
	}
	table := definitionTable(funcs["GetOpenAPIDefinitions"])
	byType := map[string]*ast.KeyValueExpr{}
	for _, e := range table.Elts {
		kv := e.(*ast.KeyValueExpr)
		byType[typesIn(kv.Key)[0]] = kv
	}

	keep := map[*ast.KeyValueExpr]bool{}
	keepFuncs := map[string]bool{"GetOpenAPIDefinitions": true}
	var visit func(typ string)
	visit = func(typ string) {
		kv, ok := byType[typ]
		if !ok || keep[kv] || !strings.HasPrefix(paths[packageOf(typ)], "k8s.io/api/") {
			return // the definitions of apimachinery come from apiextensions-apiserver
		}
		keep[kv] = true
		name := kv.Value.(*ast.CallExpr).Fun.(*ast.Ident).Name
		keepFuncs[name] = true
		for _, t := range typesIn(funcs[name].Body) {
			visit(t)
		}
	}
	for typ := range byType {
		if slices.Contains(kinds, strings.TrimPrefix(typ, packageOf(typ)+".")) {
			visit(typ)
		}
	}

	table.Elts = slices.DeleteFunc(table.Elts, func(e ast.Expr) bool { return !keep[e.(*ast.KeyValueExpr)] })
	var cut [][2]token.Pos
	file.Decls = slices.DeleteFunc(file.Decls, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		drop := ok && !keepFuncs[f.Name.Name]
		if drop {
			cut = append(cut, [2]token.Pos{f.Pos(), f.End()})
		}
		return drop
	})
	file.Comments = slices.DeleteFunc(file.Comments, func(c *ast.CommentGroup) bool {
		return slices.ContainsFunc(cut, func(r [2]token.Pos) bool { return r[0] <= c.Pos() && c.End() <= r[1] })
	})
	dropUnusedImports(file)
	var out bytes.Buffer
	if err := format.Node(&out, fset, file); err != nil {
		return err
	}
	return os.WriteFile(path, squeeze(out.Bytes()), 0o644)
}

func definitionTable(f *ast.FuncDecl) *ast.CompositeLit {
	return f.Body.List[0].(*ast.ReturnStmt).Results[0].(*ast.CompositeLit)
}

// typesIn lists the T of every T{}.OpenAPIModelName() under n, as "pkg.Name".
func typesIn(n ast.Node) []string {
	var types []string
	ast.Inspect(n, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != "OpenAPIModelName" {
			return true
		}
		if lit, ok := sel.X.(*ast.CompositeLit); ok {
			t := lit.Type.(*ast.SelectorExpr)
			types = append(types, t.X.(*ast.Ident).Name+"."+t.Sel.Name)
		}
		return true
	})
	return types
}

func packageOf(typ string) string {
	pkg, _, _ := strings.Cut(typ, ".")
	return pkg
}

// importPaths maps the local name of each import to its path.
func importPaths(file *ast.File) map[string]string {
	paths := map[string]string{}
	for _, i := range file.Imports {
		paths[i.Name.Name] = strings.Trim(i.Path.Value, `"`)
	}
	return paths
}

func dropUnusedImports(file *ast.File) {
	used := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := sel.X.(*ast.Ident); ok {
				used[id.Name] = true
			}
		}
		return true
	})
	imports := file.Decls[0].(*ast.GenDecl)
	imports.Specs = slices.DeleteFunc(imports.Specs, func(s ast.Spec) bool { return !used[s.(*ast.ImportSpec).Name.Name] })
}

// squeeze drops the runs of blank lines that the removed functions leave.
func squeeze(src []byte) []byte {
	for bytes.Contains(src, []byte("\n\n\n")) {
		src = bytes.ReplaceAll(src, []byte("\n\n\n"), []byte("\n\n"))
	}
	return src
}
