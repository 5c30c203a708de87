package bind

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// IDs are the user and group ids that containers have on the device.
type IDs struct{ UIDs, GIDs []Range }

// Range is a range of ids.
type Range struct{ First, Count uint32 }

// overflowID stands for every id that the user namespace of the agent, or a
// file system, cannot name.
const overflowID = 65534

// Bits of a directory's mode.
const (
	groupWrites = 0o020
	othersWrite = 0o002
)

func (i *IDs) uid(id uint32) bool { return i == nil && id != 0 || i != nil && has(i.UIDs, id) }
func (i *IDs) gid(id uint32) bool { return i == nil && id != 0 || i != nil && has(i.GIDs, id) }

func has(ranges []Range, id uint32) bool {
	return id == overflowID || slices.ContainsFunc(ranges, func(r Range) bool { return id >= r.First && id-r.First < r.Count })
}

// guard refuses a directory in which a container could replace the entry, which
// is nil when it does not exist.
func (i *IDs) guard(dir string, entry fs.FileInfo) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("the agent cannot see the directory above: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the owner of %s is not known", dir)
	}
	const remedy = "so a container could put a link in its place: give %[1]s to root (chown root %[1]s) and let nobody else write it (chmod go-w %[1]s), or mount %[1]s itself"
	switch mode := uint32(info.Mode().Perm()); {
	case i.uid(stat.Uid):
		return fmt.Errorf("%[1]s belongs to the account of the containers (uid %[2]d), "+remedy, dir, stat.Uid)
	case mode&othersWrite == 0 && (mode&groupWrites == 0 || !i.gid(stat.Gid) && !hasACL(dir)):
		return nil
	case info.Mode()&fs.ModeSticky != 0 && i.keeps(entry):
		return nil
	}
	return fmt.Errorf("%[1]s can be written by its group or by others, "+remedy, dir)
}

// keeps reports whether an entry of a sticky directory stays what it is: only
// its owner and that of the directory could replace it.
func (i *IDs) keeps(entry fs.FileInfo) bool {
	if entry == nil {
		return false
	}
	stat, ok := entry.Sys().(*syscall.Stat_t)
	return ok && !i.uid(stat.Uid)
}
