package arch_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// asked are what the README asks a newcomer to have.
var asked = []string{"git", "make", "go", "sudo"}

// elsewhere are directories whose programs `make test` does not run: virtual machines
// have a target and a list of packages of their own, and the demo looks for podman in
// the session of a developer without root.
var elsewhere = []string{"test/vm", "test/demo"}

// Whatever program a test or a tool runs on the machine itself is one that `make
// test` installs, that the README asks for, or that every Debian has, the smallest as
// well. A machine that happens to have more would hide that it is missing on others.
func TestProgramsAreInstalledByTheTargets(t *testing.T) {
	t.Parallel()
	programs := programsRun(t, "../..")
	if programs["rpm"] == "" {
		t.Error("the search does not find rpm, which tests run")
	}
	granted := map[string]bool{}
	for _, name := range strings.Fields(output(t, "../../tools/install-packages.sh", "list")) {
		grant(granted, name)
	}
	for line := range strings.Lines(output(t, "dpkg-query", "-W", "-f", "${Essential} ${Priority} ${Package}\n")) {
		fields := strings.Fields(line)
		if name := fields[len(fields)-1]; fields[0] == "yes" || slices.Contains(fields, "required") {
			grant(granted, name)
		}
	}
	for program, where := range programs {
		if slices.Contains(asked, program) {
			continue
		}
		owner, err := ownerOf(program)
		switch {
		case err != nil:
			t.Errorf("%s runs %s, which is not installed: name its package in tools/install-packages.sh (%v)", where, program, err)
		case !granted[owner]:
			t.Errorf("%s runs %s of the package %s, which no target installs: name it in tools/install-packages.sh", where, program, owner)
		}
	}
}

// grant adds a package and what it depends on.
func grant(granted map[string]bool, name string) {
	if granted[name] {
		return
	}
	granted[name] = true
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Pre-Depends}, ${Depends}", name).Output()
	if err != nil {
		return // an alternative that is not installed
	}
	for _, one := range strings.FieldsFunc(string(out), func(r rune) bool { return r == ',' || r == '|' }) {
		if words := strings.Fields(one); len(words) > 0 {
			grant(granted, strings.TrimSuffix(words[0], ":any"))
		}
	}
}

// ownerOf is the Debian package that a program is of.
func ownerOf(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for _, candidate := range []string{path, strings.TrimPrefix(path, "/usr")} { // before the directories were merged
		if out, err := exec.Command("dpkg-query", "-S", candidate).Output(); err == nil {
			name, _, _ := strings.Cut(string(out), ":")
			return name, nil
		}
	}
	return "", errors.New("no package has " + path)
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("running %s: %v", name, err)
	}
	return string(out)
}

// programsRun returns the programs that tests and tools run by name, with a file
// that runs each. It knows os/exec, and functions of the same package that pass a
// parameter on to it.
func programsRun(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if name := d.Name(); name != ".." && name != "." && strings.HasPrefix(name, ".") || name == "testdata" {
			return fs.SkipDir
		}
		for program, where := range programsOf(t, root, path) {
			found[program] = where
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func programsOf(t *testing.T, root, dir string) map[string]string {
	t.Helper()
	relative, err := filepath.Rel(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(elsewhere, relative) {
		return nil
	}
	ours := strings.HasPrefix(relative, "test") || strings.HasPrefix(relative, "tools")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	set := token.NewFileSet()
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, "_test.go") || ours && strings.HasSuffix(name, ".go") {
			file, err := parser.ParseFile(set, filepath.Join(dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	runners := map[string]int{} // functions of the package, and which argument is the program
	for _, file := range files {
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				noteRunner(runners, f)
			}
		}
	}
	found := map[string]string{}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if at, ok := programAt(call, runners); ok && at < len(call.Args) {
				if lit, ok := call.Args[at].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					if program, err := strconv.Unquote(lit.Value); err == nil && program != "" && !strings.ContainsAny(program, "/ ") {
						found[program] = set.Position(lit.Pos()).String()
					}
				}
			}
			return true
		})
	}
	return found
}

// programAt is which argument of a call names a program.
func programAt(call *ast.CallExpr, runners map[string]int) (int, bool) {
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok && x.Name == "exec" {
			switch f.Sel.Name {
			case "Command", "LookPath":
				return 0, true
			case "CommandContext":
				return 1, true
			}
		}
	case *ast.Ident:
		at, ok := runners[f.Name]
		return at, ok
	}
	return 0, false
}

// noteRunner notes a function that runs the program which a parameter names.
func noteRunner(runners map[string]int, f *ast.FuncDecl) {
	if f.Body == nil || f.Recv != nil {
		return
	}
	var names []string
	for _, field := range f.Type.Params.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	ast.Inspect(f.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if at, ok := programAt(call, nil); ok && at < len(call.Args) {
			if id, ok := call.Args[at].(*ast.Ident); ok && slices.Contains(names, id.Name) {
				runners[f.Name.Name] = slices.Index(names, id.Name)
			}
		}
		return true
	})
}
