package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Root opens archives and hands them to the account of the workloads: of a directory that
// somebody made, it follows no link.
func TestArchivesOfADirectory(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	secret, good := filepath.Join(home, "shadow"), filepath.Join(home, "stick")
	for path, content := range map[string]string{
		secret: "secret", filepath.Join(good, "b.tar"): "b", filepath.Join(good, "a.oci"): "a", filepath.Join(good, "readme"): "-",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	typed := filepath.Join(home, "link")
	if err := os.Symlink(good, typed); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(home, "typed.tar")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{good: "a b", typed: "a b", secret: "secret", filepath.Join(home, "typed.tar"): "secret"} {
		if got := contents(t, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for what, tc := range map[string]struct {
		make func(path string) error
		want string
	}{
		"link to a file":      {func(path string) error { return os.Symlink(secret, path) }, "is a link"},
		"link to a directory": {func(path string) error { return os.Symlink(good, path) }, "is a link"},
		"link to nothing":     {func(path string) error { return os.Symlink("/nowhere", path) }, "is a link"},
		"pipe":                {func(path string) error { return unix.Mkfifo(path, 0o600) }, "is no file"},
		"directory":           {func(path string) error { return os.Mkdir(path, 0o700) }, "is no file"},
	} {
		dir := t.TempDir()
		if err := tc.make(filepath.Join(dir, "x.tar")); err != nil {
			t.Fatal(err)
		}
		if all, err := openArchives([]string{dir}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error is %v", what, err)
			all.close()
		}
	}
	if _, err := openArchives([]string{t.TempDir()}); err == nil || !strings.Contains(err.Error(), "no file ending with") {
		t.Errorf("an empty directory: error is %v", err)
	}
}

// A stick with any number of files costs neither the memory nor the descriptors of whoever
// reads it.
func TestArchivesAreBounded(t *testing.T) {
	t.Parallel()
	fill := func(t *testing.T, n int, ending string) string {
		dir := t.TempDir()
		for i := range n {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)+ending), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	most := fill(t, maxArchives, ".tar")
	all, err := openArchives([]string{most})
	if err != nil || len(all) != maxArchives {
		t.Errorf("%d archives, error is %v", len(all), err)
	}
	all.close()
	many, files := fill(t, maxArchives+1, ".tar"), fill(t, maxBeside+1, ".txt")
	for want, paths := range map[string][]string{
		many + " has more than 256 archives":   {many}, // before any more are opened
		"more than 256 archives: name fewer":   {most, fill(t, 1, ".tar")},
		files + " has more than 10000 files: ": {files},
	} {
		if all, err := openArchives(paths); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
			all.close()
		}
	}
}

// contents are those of the archives at a path.
func contents(t *testing.T, path string) string {
	t.Helper()
	all, err := openArchives([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	defer all.close()
	var texts []string
	for _, file := range all {
		data, err := io.ReadAll(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(data))
	}
	return strings.Join(texts, " ")
}
