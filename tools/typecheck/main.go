// Command typecheck checks the types of this project and its tests for other
// architectures. It compiles nothing, so it takes seconds where a compiler takes minutes:
//
//	go -C tools run ./typecheck -arches "arm arm64"
//
// It exits with 1, and a line for each mistake, when there is one.
package main

import (
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
	root := flag.String("dir", "..", "directory of the module")
	flag.Parse()
	found := 0
	for arch := range strings.FieldsSeq(*arches) {
		mistakes, err := check(*root, arch)
		if err != nil {
			fmt.Fprintln(os.Stderr, "typecheck:", err)
			os.Exit(1)
		}
		for _, m := range mistakes {
			fmt.Fprintf(os.Stderr, "%s: %s\n", arch, m)
		}
		found += len(mistakes)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// check returns the mistakes in the packages and tests of the module below root.
func check(root, arch string) (mistakes []string, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	config := &packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps | packages.NeedTypes | packages.NeedSyntax | packages.NeedModule,
		Dir:  root, Env: append(os.Environ(), "GOARCH="+arch, "GOARM=7", "CGO_ENABLED=0"), Tests: true,
		ParseFile: func(set *token.FileSet, name string, source []byte) (*ast.File, error) {
			file, err := parser.ParseFile(set, name, source, parser.SkipObjectResolution)
			if file != nil && !strings.HasPrefix(name, root+string(filepath.Separator)) {
				dropBodies(file)
			}
			return file, err
		},
	}
	loaded, err := packages.Load(config, "./...")
	if err != nil {
		return nil, fmt.Errorf("loading the packages for %s: %w", arch, err)
	}
	if len(loaded) == 0 {
		return nil, fmt.Errorf("no packages below %s", root)
	}
	seen := map[string]bool{}
	for _, p := range loaded {
		if strings.HasSuffix(p.ID, ".test") { // the program that runs tests is Go's own
			continue
		}
		for _, e := range p.Errors {
			if !seen[e.Error()] { // a package and its tests
				seen[e.Error()] = true
				mistakes = append(mistakes, e.Error())
			}
		}
	}
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
