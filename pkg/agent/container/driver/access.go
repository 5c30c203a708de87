package driver

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
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

// access compares what a service mounts with its user: the ids of a container are others on
// the device. It returns an error for what cannot work for certain, and otherwise what may be
// why the service fails, or nothing.
func access(spec *container.Spec, image string, sight *bind.Sight) (hint string, err error) {
	who := userOf(spec, image, sight.IDs)
	for _, m := range spec.Mounts {
		if m.HostPath == "" || m.Service != "" {
			continue
		}
		text, certain := who.denied(m, sight)
		if certain {
			return "", errors.New(text)
		}
		hint = cmp.Or(hint, text)
	}
	return hint, nil
}

// user is who runs in a container.
type user struct {
	// inside is its number there, outside the one on the device; known: both are.
	inside, outside uint32
	known           bool
	// image: the number is that of the image.
	image bool
	// groups: it has the groups of the account.
	groups bool
}

func userOf(spec *container.Spec, image string, ids *bind.IDs) user {
	u := user{image: spec.Rights.User == "", groups: spec.Rights.KeepGroups}
	var account uint32
	if spec.Rights.Account != nil {
		account = spec.Rights.Account.UID
	}
	u.inside, u.known = number(cmp.Or(spec.Rights.User, image))
	if u.known {
		u.outside, u.known = ids.HostUIDWith(account, u.inside)
	}
	return u
}

// String names it as its owner knows it.
func (u user) String() string {
	if u.image {
		return fmt.Sprintf("user %d of the image", u.inside)
	}
	return fmt.Sprintf("user %d", u.inside)
}

// denied says what a user may not do with a mount; nothing unless it is so.
func (u user) denied(m container.Mount, sight *bind.Sight) (text string, certain bool) {
	entry, seen := sight.Entry(m.HostPath)
	if m.Device {
		entry, seen = sight.Target(m.HostPath)
	}
	if !seen || !u.known || u.inside == 0 && sight.IDs.Owns(&entry) {
		return "", false // its root may override permissions
	}
	needs, what := uint32(reads), "read it"
	if entry.IsDir() {
		needs, what = enters, "enter it"
	}
	remedy := u.remedy(m, &entry, sight)
	switch {
	case m.Device && u.member(&entry, needs, sight):
		return u.newLogin(m, &entry, sight)
	case !u.may(&entry, needs, sight.IDs):
		certain = true
	case m.ReadOnly || m.Device || u.may(&entry, writes, sight.IDs):
		return "", false
	default:
		// It may be about to read alone. But who gave it to the number of the image's user
		// meant that of the container.
		what, certain = "write there", entry.IsDir() && u.inside != 0 && entry.UID == u.inside
		remedy += ", or set readOnly"
	}
	return fmt.Sprintf("%s %s: %s is uid %d on this device and may not %s, which has mode %04o, uid %d and gid %d: %s",
		cmp.Or(m.Field, "hostPath"), m.HostPath, u, u.outside, what, entry.Mode&0o7777, entry.UID, entry.GID, remedy), certain
}

// remedy is how the device lets the user have it.
func (u user) remedy(m container.Mount, entry *trail.Entry, sight *bind.Sight) string {
	switch {
	case m.Device && u.groups && !entry.IsDir():
		return fmt.Sprintf("usermod -aG %d fleet-workload, and then systemctl restart user@$(id -u fleet-workload).service, which ends all containers, or a restart of the device", entry.GID)
	case !m.Device && !sight.Mine(m.HostPath):
		return fmt.Sprintf("give it to uid %d", u.outside)
	case entry.IsDevice():
		return fmt.Sprintf("a rule of udev has to set OWNER=\"%d\", since containers are in no group of the device", u.outside)
	}
	return fmt.Sprintf("chown -R %d %s", u.outside, bind.Quote(m.HostPath))
}

// member reports whether a user may do something by a group of the account.
func (u user) member(e *trail.Entry, rights uint32, sight *bind.Sight) bool {
	return u.groups && !u.may(e, rights, sight.IDs) && e.Mode>>groupShift&rights == rights && sight.IDs.Member(e.GID)
}

// newLogin says that the account is in a group of which its processes know nothing yet.
func (u user) newLogin(m container.Mount, e *trail.Entry, sight *bind.Sight) (text string, certain bool) {
	if sight.Groups == nil {
		return "", false
	}
	groups, err := sight.Groups()
	if err != nil || slices.Contains(groups, e.GID) {
		return "", false
	}
	return fmt.Sprintf("%s %s: the account fleet-workload is in group %d of the device, but not since its last login: systemctl restart user@$(id -u fleet-workload).service, "+
		"which ends all containers, or a restart of the device, lets containers use it", m.Field, m.HostPath, e.GID), true
}

// may reports whether a user may do something, or might: which groups it has, only the
// image knows.
func (u user) may(e *trail.Entry, rights uint32, ids *bind.IDs) bool {
	mode := e.Mode
	switch {
	case e.UID == u.outside, mode&rights == rights:
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
