package interpreter

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// othersWrite are the permissions that let others change a file, and what is in a directory.
const othersWrite = 0o022

// checkDirectory reports whether only root, or owner, can have put what is at path.
func checkDirectory(path string, owner int) error {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is no directory: name the one that a link leads to", dir)
		}
		// A sticky directory, as /tmp, lets nobody replace the directory below it.
		if mode := info.Mode(); mode&fs.ModeSticky != 0 && dir != filepath.Dir(path) {
			info = withMode{info, mode &^ othersWrite}
		}
		if err := checkOwner(dir, info, owner); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// withMode is a FileInfo with another mode.
type withMode struct {
	fs.FileInfo

	mode fs.FileMode
}

func (w withMode) Mode() fs.FileMode { return w.mode }

func checkOwner(path string, info fs.FileInfo, owner int) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner", path)
	}
	if uid := int(stat.Uid); uid != 0 && uid != owner {
		return fmt.Errorf("%s belongs to account %d, and must be root's", path, uid)
	}
	if info.Mode().Perm()&othersWrite != 0 {
		return fmt.Errorf("others than root may write in %s: chmod go-w %s", path, path)
	}
	return nil
}
