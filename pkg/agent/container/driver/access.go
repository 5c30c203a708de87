package driver

import (
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

// accessible reports a directory of the device that the user of an image cannot use: the
// ids of a container are others on the device. It says nothing unless it is certain.
func accessible(m container.Mount, user string, sight *bind.Sight) error {
	entry, seen := sight.Entry(m.HostPath)
	inside, numeric := number(user)
	outside, known := sight.IDs.HostUID(inside)
	if !seen || !numeric || !known || inside == 0 && sight.IDs.Owns(&entry) {
		return nil // its root may override permissions
	}
	needs, what := uint32(reads), "may not read it"
	if entry.IsDir() {
		needs, what = enters, "may not enter it"
	}
	who := fmt.Sprintf("hostPath %s: user %d of the image is uid %d on this device and ", m.HostPath, inside, outside)
	is := fmt.Sprintf(", which has mode %04o, uid %d and gid %d: ", entry.Mode&0o7777, entry.UID, entry.GID)
	switch {
	case may(&entry, outside, needs, sight.IDs):
		break
	case entry.IsDevice():
		return fmt.Errorf("%s%s%sa rule of udev has to set OWNER=\"%d\", since containers are in no group of the device", who, what, is, outside)
	default:
		return fmt.Errorf("%s%s%schown -R %d %s", who, what, is, outside, m.HostPath)
	}
	// Who gave it to the user of the image meant that of the container.
	meant := !m.ReadOnly && entry.IsDir() && inside != 0 && entry.UID == inside
	if meant && !may(&entry, outside, writes, sight.IDs) {
		return fmt.Errorf("%smay not write there%schown -R %d %s, or set readOnly", who, is, outside, m.HostPath)
	}
	return nil
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
