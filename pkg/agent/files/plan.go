package files

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// file is one that is wanted.
type file struct {
	path     string
	content  []byte
	mode     uint32
	uid, gid int
}

func (f *file) sum() string { return sumOf(f.content) }

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// sight is what is at a path.
type sight struct {
	exists bool
	// kind is empty for a regular file, and otherwise what is there instead.
	kind     string
	sum      string
	mode     uint32
	uid, gid int
}

// is reports whether what is there is what a ledger says was put.
func (s *sight) is(p *put) bool {
	return p != nil && s.exists && s.kind == "" && slices.Contains(p.Sums, s.sum)
}

// todo is what has to be done.
type todo struct {
	// write are files that have to be put.
	write []*file
	// remove are paths whose file is deleted, leave those whose file somebody changed.
	remove, leave []string
	// gone are paths that have no file any more, but may have what a power cut left.
	gone []string
	// note: the ledger alone has to say something else.
	note bool
}

// steps names what is done.
func (t *todo) steps() (steps []string) {
	for _, f := range t.write {
		steps = append(steps, "writing "+f.path)
	}
	for _, path := range t.remove {
		steps = append(steps, "deleting "+path)
	}
	for _, path := range t.leave {
		steps = append(steps, "leaving "+path+", which somebody changed")
	}
	if len(steps) == 0 && t.note {
		steps = append(steps, "noting what is there")
	}
	return steps
}

// decide is pure: what leads from what is seen, and what the ledger says that the
// Deployment has, to what is wanted. had is nil when it has nothing.
func decide(l *ledger, ref wire.DeploymentRef, had *entry, wanted []*file, mark string, seen map[string]sight) (*todo, error) {
	t := &todo{note: had == nil || had.Mark != mark || had.Halted}
	keep := map[string]bool{}
	for _, f := range wanted {
		keep[f.path] = true
		if other, its := l.claimant(ref, f.path); other != "" {
			return nil, claimed(f.path, other, its)
		}
		var its *put
		if had != nil {
			its = had.Files[f.path]
		}
		s := seen[f.path]
		switch {
		case !s.exists:
			t.write = append(t.write, f)
		case !s.is(its):
			return nil, foreign(f.path, &s, its != nil)
		case s.sum != f.sum() || s.mode != f.mode || s.uid != f.uid || s.gid != f.gid:
			// It is put anew for its owner and mode, too: another name or a descriptor of
			// somebody else may lead to the file that is there.
			t.write = append(t.write, f)
		}
	}
	if had == nil {
		return t, nil
	}
	for _, path := range slices.Sorted(maps.Keys(had.Files)) {
		if !keep[path] {
			s := seen[path]
			t.drop(path, &s, had.Files[path])
		}
	}
	return t, nil
}

// drop decides about a file that is not wanted any more.
func (t *todo) drop(path string, s *sight, its *put) {
	switch {
	case s.is(its):
		t.remove = append(t.remove, path)
	case s.exists:
		t.leave = append(t.leave, path)
	default:
		t.gone, t.note = append(t.gone, path), true
	}
}

func claimed(path, other, its string) error {
	if path == its {
		return fmt.Errorf("%s is already put by Deployment %s: use another path, or delete that Deployment", path, other)
	}
	return fmt.Errorf("%s and %s of Deployment %s exclude each other: use another path", path, its, other)
}

// foreign is about something at a path that is not what was put there.
func foreign(path string, s *sight, put bool) error {
	switch {
	case s.kind != "":
		return fmt.Errorf("%s is %s, and no file that this Deployment put: move it away", path, s.kind)
	case put:
		return fmt.Errorf("%s was changed on the device since it was put, and is left as it is: move it away, and it is put again", path)
	}
	return fmt.Errorf("%s exists, and no Deployment put it: move it away", path)
}
