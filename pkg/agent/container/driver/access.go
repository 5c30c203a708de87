package driver

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

// Bits of a mode, as they stand for others.
const (
	reads, writes, enters = 0o4, 0o2, 0o1
	groupShift            = 3
)

// access compares what a service mounts with the user of its image: the ids of a container
// are others on the device. It returns an error for what cannot work for certain, and
// otherwise what may be why the service fails, or nothing.
func access(mounts []container.Mount, user string, sight *bind.Sight) (hint string, err error) {
	for _, m := range mounts {
		if m.HostPath == "" {
			continue
		}
		text, certain := denied(m, user, sight)
		if certain {
			return "", errors.New(text)
		}
		hint = cmp.Or(hint, text)
	}
	return hint, nil
}

// denied says what a user may not do with a mount; nothing unless it is so.
func denied(m container.Mount, user string, sight *bind.Sight) (text string, certain bool) {
	entry, seen := sight.Entry(m.HostPath)
	inside, numeric := number(user)
	outside, known := sight.IDs.HostUID(inside)
	if !seen || !numeric || !known || inside == 0 && sight.IDs.Owns(&entry) {
		return "", false // its root may override permissions
	}
	needs, what := uint32(reads), "read it"
	if entry.IsDir() {
		needs, what = enters, "enter it"
	}
	remedy := fmt.Sprintf("chown -R %d %s", outside, bind.Quote(m.HostPath))
	switch {
	case !sight.Mine(m.HostPath):
		remedy = fmt.Sprintf("give it to uid %d", outside)
	case entry.IsDevice():
		remedy = fmt.Sprintf("a rule of udev has to set OWNER=\"%d\", since containers are in no group of the device", outside)
	}
	switch {
	case !may(&entry, outside, needs, sight.IDs):
		certain = true
	case m.ReadOnly || may(&entry, outside, writes, sight.IDs):
		return "", false
	default:
		// It may be about to read alone. But who gave it to the number of the image's user
		// meant that of the container.
		what, certain = "write there", entry.IsDir() && inside != 0 && entry.UID == inside
		remedy += ", or set readOnly"
	}
	return fmt.Sprintf("hostPath %s: user %d of the image is uid %d on this device and may not %s, which has mode %04o, uid %d and gid %d: %s",
		m.HostPath, inside, outside, what, entry.Mode&0o7777, entry.UID, entry.GID, remedy), certain
}

// may reports whether a user may do something, or might: which groups it has, only the
// image knows.
func may(e *trail.Entry, uid, rights uint32, ids *bind.IDs) bool {
	mode := e.Mode
	switch {
	case e.UID == uid, mode&rights == rights:
		return true // the owner may change the mode
	case mode>>groupShift&rights == rights:
		return e.ACL || ids.Has(e.GID)
	}
	return false
}

// number is the user of an image if that is a number, or nothing for the first one. What
// a name means, only the image knows.
func number(user string) (uint32, bool) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" || name == "root" {
		return 0, true
	}
	id, err := strconv.ParseUint(name, 10, 32)
	return uint32(id), err == nil
}
