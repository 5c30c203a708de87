package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
)

// IDs are the ids that the account's containers have, or nil when they are not
// all known: then a directory service allocates them, or a file is damaged.
func (l Local) IDs() *bind.IDs {
	account, ok := l.account(l.Workload)
	if source := l.subIDSource(); !ok || source != "" && source != "files" {
		return nil
	}
	uids, uidErr := l.idRanges("etc/subuid", account)
	gids, gidErr := l.idRanges("etc/subgid", account)
	groups, groupErr := l.memberships()
	if errors.Join(uidErr, gidErr, groupErr) != nil {
		return nil
	}
	ids := &bind.IDs{
		UIDs: append([]bind.Range{single(uint32(account.UID))}, uids...), //nolint:gosec // ids are positive
		GIDs: append([]bind.Range{single(uint32(account.GID))}, gids...), //nolint:gosec // as above
	}
	for _, group := range groups {
		ids.GIDs = append(ids.GIDs, single(group.GID))
	}
	return ids
}

func single(id uint32) bind.Range { return bind.Range{First: id, Count: 1} }

// idRanges are the account's ranges of subordinate ids in a file.
func (l Local) idRanges(file string, account Account) ([]bind.Range, error) {
	var ranges []bind.Range
	err := l.eachEntry(file, 3, func(fields []string) error {
		if fields[0] != l.Workload && fields[0] != strconv.Itoa(account.UID) {
			return nil
		}
		first, firstErr := strconv.ParseUint(fields[1], 10, 32)
		count, countErr := strconv.ParseUint(fields[2], 10, 32)
		ranges = append(ranges, bind.Range{First: uint32(first), Count: uint32(count)})
		return errors.Join(firstErr, countErr)
	})
	return ranges, err
}

// memberships are the groups that name the account as a member, in the order of the file.
func (l Local) memberships() (groups []Group, err error) {
	err = l.eachEntry("etc/group", 4, func(fields []string) error {
		if !slices.Contains(strings.Split(fields[3], ","), l.Workload) {
			return nil
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		groups = append(groups, Group{Name: fields[0], GID: uint32(id)})
		return err
	})
	return groups, err
}

// eachEntry calls do with the fields of each line of a file that has as many. A
// file that does not exist has no lines.
func (l Local) eachEntry(file string, fields int, do func([]string) error) error {
	text, err := l.tryRead(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		entry := strings.Split(strings.TrimSpace(line), ":")
		if len(entry) != fields {
			continue
		}
		if err := do(entry); err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
	}
	return nil
}
