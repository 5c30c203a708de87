// Command typecheck checks the types of this project and its tests for other
// architectures. It compiles nothing, so it takes seconds where a compiler takes minutes:
//
//	go -C tools run ./typecheck -arches "arm arm64"
//
// A program for other systems is named, and checked with what it imports, without tests,
// which run on Linux:
//
//	go -C tools run ./typecheck -system windows -arches amd64 -program ./cmd/kubectl-fleet
//
// It exits with 1, and a line for each mistake, when there is one.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	arches := flag.String("arches", "arm", "architectures as in GOARCH, with spaces between them")
	system := flag.String("system", "linux", "system as in GOOS")
	program := flag.String("program", "", "package to check, with what it imports (default all, and their tests)")
	root := flag.String("dir", "..", "directory of the module")
	flag.Parse()
	found := 0
	for arch := range strings.FieldsSeq(*arches) {
		mistakes, err := check(*root, target{*system, arch, *program})
		if err != nil {
			fmt.Fprintln(os.Stderr, "typecheck:", err)
			os.Exit(1)
		}
		for _, m := range mistakes {
			fmt.Fprintf(os.Stderr, "%s/%s: %s\n", *system, arch, m)
		}
		found += len(mistakes)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// target is what is checked, and for what.
type target struct{ system, arch, program string }

// check returns the mistakes in packages, and tests, of the module below root.
func check(root string, t target) (mistakes []string, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	config := &packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps | packages.NeedTypes | packages.NeedSyntax | packages.NeedModule,
		Dir:  root, Env: append(os.Environ(), "GOOS="+t.system, "GOARCH="+t.arch, "GOARM=7", "CGO_ENABLED=0"), Tests: t.program == "",
		ParseFile: func(set *token.FileSet, name string, source []byte) (*ast.File, error) {
			file, err := parser.ParseFile(set, name, source, parser.SkipObjectResolution)
			if file != nil && !strings.HasPrefix(name, root+string(filepath.Separator)) {
				dropBodies(file)
			}
			return file, err
		},
	}
	loaded, err := packages.Load(config, cmp.Or(t.program, "./..."))
	if err != nil {
		return nil, fmt.Errorf("loading the packages for %s/%s: %w", t.system, t.arch, err)
	}
	if len(loaded) == 0 {
		return nil, fmt.Errorf("no packages below %s", root)
	}
	seen := map[string]bool{}
	packages.Visit(loaded, nil, func(p *packages.Package) {
		// Only types of others count, and the program that runs tests is Go's own.
		if p.Module == nil || !p.Module.Main || strings.HasSuffix(p.ID, ".test") {
			return
		}
		for _, e := range p.Errors {
			if !seen[e.Error()] { // a package and its tests
				seen[e.Error()] = true
				mistakes = append(mistakes, e.Error())
			}
		}
	})
	return mistakes, nil
}

// dropBodies takes away what functions of others do: only their types count.
func dropBodies(file *ast.File) {
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			f.Body = nil
		}
	}
}
