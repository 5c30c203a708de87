package bind

import (
	"fmt"
	"slices"

	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

// IDs are the user and group ids that containers have on the device, in the order in which
// containers count them, from 0: the account's own, then its subordinate ones. Groups that
// the account belongs to besides come last.
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
	return id == overflowID || slices.ContainsFunc(ranges, func(r Range) bool { return r.has(id) })
}

func (r Range) has(id uint32) bool { return id >= r.First && id-r.First < r.Count }

// guard refuses a directory in which a container could replace the entry.
func (i *IDs) guard(dir string, at, entry *trail.Entry) error {
	if at.Fault != "" {
		return fmt.Errorf("the directory above, %s, %w: %w", dir, ErrUnseen, at.Fault.Err())
	}
	const remedy = "so a container could put a link in its place: give %[1]s to root (chown root %[1]s) and let nobody else write it (chmod go-w %[1]s), or mount %[1]s itself"
	switch mode := at.Perm(); {
	case i.uid(at.UID):
		return fmt.Errorf("%[1]s belongs to the account of the containers (uid %[2]d), "+remedy, dir, at.UID)
	case mode&othersWrite == 0 && (mode&groupWrites == 0 || !i.gid(at.GID) && !at.ACL):
		return nil
	case at.Sticky() && entry.Fault == "" && !i.uid(entry.UID):
		return nil // only its owner and that of the directory could replace it
	}
	return fmt.Errorf("%[1]s can be written by its group or by others, "+remedy, dir)
}

// HostUID is the id that a user of a container has on the device.
func (i *IDs) HostUID(inside uint32) (uint32, bool) {
	if i == nil {
		return 0, false
	}
	return mapped(i.UIDs, inside)
}

// HostUIDWith is as HostUID, for a container of which user account is the account: those up to
// it have the first subordinate ids.
func (i *IDs) HostUIDWith(account, inside uint32) (uint32, bool) {
	switch {
	case inside == account:
		inside = 0
	case inside < account:
		inside++
	}
	return i.HostUID(inside)
}

// mapped is about the account's own id and one range, as setup-user allocates it. In which
// order podman takes more of them is its own affair; groups are single ids.
func mapped(ranges []Range, inside uint32) (uint32, bool) {
	switch {
	case len(ranges) > 0 && inside == 0:
		return ranges[0].First, true
	case len(ranges) < 2, len(ranges) > 2 && ranges[2].Count > 1, inside > ranges[1].Count:
		return 0, false
	}
	return ranges[1].First + inside - 1, true
}

// Has reports whether a group of the device may be one of a container. The account's other
// groups are not: podman leaves them behind.
func (i *IDs) Has(gid uint32) bool {
	if i == nil {
		return true
	}
	inside := slices.Clone(i.GIDs)
	if len(inside) > 1 {
		inside = slices.Concat(inside[:1], slices.DeleteFunc(inside[1:], func(r Range) bool { return r.Count == 1 }))
	}
	return slices.ContainsFunc(inside, func(r Range) bool { return r.has(gid) })
}

// Member reports whether the account that runs the containers belongs to a group of the device
// besides its own.
func (i *IDs) Member(gid uint32) bool {
	return i != nil && slices.ContainsFunc(i.GIDs[min(1, len(i.GIDs)):], func(r Range) bool { return r.Count == 1 && r.First == gid })
}

// Owns reports whether root of a container may override the permissions of an entry.
func (i *IDs) Owns(e *trail.Entry) bool {
	return i == nil || slices.ContainsFunc(i.UIDs, func(r Range) bool { return r.has(e.UID) }) && i.Has(e.GID)
}
