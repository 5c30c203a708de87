package revisions

import (
	"cmp"
	"slices"
)

// defaultHistoryLimit is how many scores are kept besides the present one.
const defaultHistoryLimit = 10

// revision is what is known of a ControllerRevision.
type revision struct {
	name   string
	hash   string
	number int64
	cause  string
}

// change is what makes the revisions of a Deployment say what is so.
type change struct {
	// number is what the present score gets when it is new, or has been replaced and
	// is back; otherwise 0.
	number int64
	// present is the revision of the present score; nil when there is none yet.
	present *revision
	// describe: the present revision says another cause than the Deployment.
	describe bool
	// obsolete are the names of what nobody needs any more.
	obsolete []string
}

// plan decides. Beside the present revision, limit others are kept, and those that
// devices have.
func plan(known []revision, hash, cause string, limit int, held func() map[string]bool) (c change) {
	known = slices.SortedFunc(slices.Values(known), func(a, b revision) int { return cmp.Compare(b.number, a.number) })
	if i := slices.IndexFunc(known, func(r revision) bool { return r.hash == hash }); i >= 0 {
		c.present = &known[i]
		c.describe = i == 0 && known[i].cause != cause
	}
	if len(known) == 0 || known[0].hash != hash {
		c.number = 1
		if len(known) > 0 {
			c.number = known[0].number + 1
		}
	}
	others := slices.DeleteFunc(slices.Clone(known), func(r revision) bool { return r.hash == hash })
	if len(others) <= limit {
		return c
	}
	on := held()
	for _, r := range others[limit:] {
		if !on[r.hash] {
			c.obsolete = append(c.obsolete, r.name)
		}
	}
	return c
}
