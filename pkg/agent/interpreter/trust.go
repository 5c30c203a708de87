package interpreter

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// othersWrite are the permissions that let others replace what is in a directory; a
// sticky one lets nobody replace what is not his.
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
		if err := checkOwner(dir, info, owner); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func checkOwner(path string, info fs.FileInfo, owner int) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner", path)
	}
	if uid := int(stat.Uid); uid != 0 && uid != owner {
		return fmt.Errorf("%s belongs to account %d, and must be root's", path, uid)
	}
	if info.Mode().Perm()&othersWrite != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("others than root may write in %s: chmod go-w %s", path, path)
	}
	return nil
}
