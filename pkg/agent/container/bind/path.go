package bind

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks bounds the links in a path, as the kernel does.
const maxLinks = 40

// guard decides whether the entry of a directory may be relied on.
type guard func(dir string, entry fs.FileInfo) error

// follow resolves the links in a path. It asks the guard about each directory
// that the way leads through, those of links included, before it goes on.
func follow(path string, check guard) (string, error) {
	if !filepath.IsAbs(path) {
		return "", errors.New("not an absolute path")
	}
	here, rest, links := "/", names(path), 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			here = filepath.Dir(here)
			continue
		}
		next := filepath.Join(here, name)
		entry, err := os.Lstat(next)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("the agent cannot see it: %w", err)
		}
		if checkErr := check(here, entry); checkErr != nil {
			return "", checkErr
		}
		if err != nil {
			return "", err
		}
		if entry.Mode()&fs.ModeSymlink == 0 {
			here = next
			continue
		}
		if links++; links > maxLinks {
			return "", errors.New("too many links")
		}
		target, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(target) {
			here = "/"
		}
		rest = append(names(target), rest...)
	}
	return here, nil
}

// names splits a path. What is left out leads nowhere else.
func names(path string) []string {
	var list []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			list = append(list, name)
		}
	}
	return list
}

// followFar resolves the links in a path that may not exist (yet).
func followFar(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(followFar(parent), filepath.Base(path))
}

// hasACL reports whether a directory has an access control list, or that this
// cannot be found out.
func hasACL(dir string) bool {
	_, err := unix.Lgetxattr(dir, "system.posix_acl_access", nil)
	return !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP)
}
