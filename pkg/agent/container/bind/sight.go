package bind

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

// Sight is what was seen along the paths of some mounts at one time, and what a
// policy says of it.
type Sight struct {
	Policy
	// IDs are those of containers; nil while they are not known.
	IDs *IDs

	view trail.View
	// blind is why the agent had to look itself.
	blind error
}

// Sight looks along the paths of mounts, all of them at once.
func (p Policy) Sight(mounts []container.Mount) *Sight {
	s := &Sight{Policy: p}
	var paths []string
	for _, m := range mounts {
		if m.HostPath != "" {
			paths = append(paths, m.HostPath)
		}
	}
	if len(paths) == 0 {
		s.view = trail.Here{}
		return s
	}
	if p.Workload != nil {
		s.IDs = p.Workload()
	}
	s.view, s.blind = p.View(slices.Concat(paths, p.Roots))
	return s
}

// View looks along paths as the account that mounts them does, all of them at once. When
// that cannot be done it returns why, beside the agent's own view.
func (p Policy) View(paths []string) (view trail.View, blind error) {
	if p.Look == nil {
		return trail.Here{}, nil
	}
	seen, err := p.Look(paths)
	if err != nil {
		return trail.Here{}, err
	}
	return seen, nil
}

// Check returns an error that wraps ErrRefused for the first mount that is not
// allowed.
func (s *Sight) Check(mounts []container.Mount) error {
	_, err := s.resolve(mounts)
	return err
}

func (s *Sight) resolve(mounts []container.Mount) ([]container.Mount, error) {
	resolved := slices.Clone(mounts)
	for i, m := range resolved {
		if m.HostPath == "" {
			continue
		}
		path, err := s.allow(m.HostPath)
		switch {
		case m.Field != "":
			if err := s.named(m, err); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrRefused, m.Field, err)
			}
			continue // a link is followed at each start: where it leads changes as devices come and go
		case err != nil:
			return nil, fmt.Errorf("%w: volumes[].hostPath: %w", ErrRefused, err)
		}
		resolved[i].HostPath = path
	}
	return resolved, nil
}

// allow returns the real path of a directory that may be mounted.
func (s *Sight) allow(path string) (string, error) {
	real, err := trail.Follow(s.view, path, s.IDs.guard)
	if err != nil {
		return "", s.explain(path, err)
	}
	if slices.Contains(s.Services, path) && real == path || s.isDevice(path, real) {
		return real, nil
	}
	if !s.underRoot(real) {
		return "", outside(path, real)
	}
	for _, f := range slices.Concat(alwaysForbidden, s.Forbidden) {
		// Where the path leads for the agent counts, too: this is not left to anybody's word.
		f := followFar(f)
		for _, r := range []string{real, followFar(path)} {
			if within(r, f) || within(f, r) {
				return "", fmt.Errorf("%s would expose %s, which no container may have", path, f)
			}
		}
	}
	return real, nil
}

// outside says of a path, and of what its links lead to, that no root is above it.
func outside(path, real string) error {
	which := " is not under"
	if real != filepath.Clean(path) {
		which = " leads to " + real + ", which is not under"
	}
	return fmt.Errorf("%s%s a directory that bindRoots in agent.yaml lists: list one there, or name another path", path, which)
}

// named says why something of the device may not be had that a score asks for by name, given
// why its path may not be mounted.
func (s *Sight) named(m container.Mount, err error) error {
	switch {
	case m.Service != "" && !slices.Contains(s.Services, m.HostPath):
		return fmt.Errorf("allow.hostServices in agent.yaml does not list %s", m.Service)
	case m.Device && !s.listed(m.HostPath):
		return fmt.Errorf("allow.devices in agent.yaml does not list %s", m.HostPath)
	}
	return err
}

// isDevice reports whether a path leads to what agent.yaml lists as a device: another link
// than one of /dev may lead anywhere.
func (s *Sight) isDevice(path, real string) bool {
	return s.listed(path) && within(real, devices) && real != devices
}

// devices is where devices are.
const devices = "/dev"

func (s *Sight) listed(path string) bool {
	return within(path, devices) && slices.ContainsFunc(s.Devices, func(device string) bool { return within(path, device) })
}

func (s *Sight) underRoot(real string) bool {
	return slices.ContainsFunc(s.Roots, func(root string) bool {
		top, err := trail.Follow(s.view, root, s.IDs.guard)
		return err == nil && within(real, top)
	})
}

// explain says why a path leads nowhere.
func (s *Sight) explain(path string, err error) error {
	lost, ok := errors.AsType[*trail.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", path, err)
	}
	if hidden, ok := s.hidden(lost.Path); ok {
		return fmt.Errorf("%s %w: the agent's unit hides %s, and the helper does not answer: %w", path, ErrUnseen, hidden, s.blind)
	}
	switch lost.Fault {
	case trail.Absent:
		return fmt.Errorf("%s %w", path, ErrAbsent)
	case trail.Denied:
		return fmt.Errorf("%s %w: %s%s", path, ErrUnseen, s.closed(lost), opens(path, lost))
	}
	return fmt.Errorf("%s %w: %w", path, ErrUnseen, err)
}

// opens is advice to open a directory above a path. Where links lead, the account of the
// containers says: that is no reason to open anything.
func opens(path string, lost *trail.Error) string {
	if !within(path, lost.Dir) {
		return ""
	}
	return ": chmod o+x " + Quote(lost.Dir)
}

// Mine reports whether a path lies below a root as agent.yaml names it, so that advice
// about it is not somebody else's.
func (s *Sight) Mine(path string) bool {
	return slices.ContainsFunc(s.Roots, func(root string) bool { return within(path, root) })
}

// Quote is a path as a shell takes it.
func Quote(path string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+@%:,", r)
	}
	if strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}

// closed says who may not enter a directory.
func (s *Sight) closed(lost *trail.Error) string {
	if s.Look == nil || s.blind != nil {
		return "the agent may not enter " + lost.Dir
	}
	return "the account of the containers " + Closed(lost)
}

// Closed says that somebody may not enter a directory.
func Closed(lost *trail.Error) string {
	if lost.At.Fault != "" {
		return "may not enter " + lost.Dir
	}
	return fmt.Sprintf("may not enter %s, which has mode %04o and belongs to uid %d", lost.Dir, lost.At.Mode&0o7777, lost.At.UID)
}

// hidden returns the directory that keeps the agent from seeing a path, if it had
// to look itself.
func (s *Sight) hidden(path string) (string, bool) {
	if s.blind == nil {
		return "", false
	}
	i := slices.IndexFunc(s.Hidden, func(dir string) bool { return within(path, dir) })
	if i < 0 {
		return "", false
	}
	return s.Hidden[i], true
}

// Entry is what a resolved path of the mounts stands for; it is false when that is not
// known.
func (s *Sight) Entry(path string) (trail.Entry, bool) {
	e := s.view.Lstat(path)
	return e, e.Fault == ""
}

// Target is what a path leads to, whose links are followed; it is false when that is not known.
func (s *Sight) Target(path string) (trail.Entry, bool) {
	real, err := trail.Follow(s.view, path, nil)
	if err != nil {
		return trail.Entry{}, false
	}
	return s.Entry(real)
}

// followFar resolves the links in a path that may not exist (yet).
func followFar(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(followFar(parent), filepath.Base(path))
}

// Lost reports whether a mount is refused only because it is not there, or cannot
// be looked at. No container brings that about.
func Lost(err error) bool {
	return errors.Is(err, ErrAbsent) || errors.Is(err, ErrUnseen)
}

// Trouble is why nothing below a root can be mounted.
type Trouble struct {
	Root string
	// Err does not name the root.
	Err error
	// Command makes it possible, in a root shell; empty when none does.
	Command string
}

// Troubles looks at the roots.
func (p Policy) Troubles() (list []Trouble) {
	if len(p.Roots) == 0 {
		return nil
	}
	s := p.Sight(inRoots(p.Roots))
	for _, root := range p.Roots {
		if t, ok := s.trouble(root); ok {
			list = append(list, t)
		}
	}
	return list
}

// inRoots are entries that nobody has in the roots: whether they are absent, only who may
// enter a root learns.
func inRoots(roots []string) (list []container.Mount) {
	for _, root := range roots {
		list = append(list, container.Mount{HostPath: filepath.Join(root, "fleet-looks-for-this")})
	}
	return list
}

func (s *Sight) trouble(root string) (Trouble, bool) {
	if hidden, ok := s.hidden(root); ok {
		return Trouble{Root: root, Err: fmt.Errorf("the agent's unit hides %s, and the helper does not answer: %w", hidden, s.blind)}, true
	}
	real, err := trail.Follow(s.view, root, s.IDs.guard)
	if err == nil {
		entry := s.view.Lstat(real)
		if s.IDs.uid(entry.UID) {
			return Trouble{}, false // a container enters what belongs to one
		}
		_, err = trail.Follow(s.view, inRoots([]string{root})[0].HostPath, nil)
		if errors.Is(err, fs.ErrNotExist) {
			return Trouble{}, false
		}
	}
	t := Trouble{Root: root, Err: err}
	lost, ok := errors.AsType[*trail.Error](err)
	switch {
	case !ok:
	case lost.Fault == trail.Absent:
		t.Err, t.Command = ErrAbsent, "install -d -m 0755 "+Quote(root)
	case lost.Fault == trail.Denied:
		t.Err, t.Command = errors.New(s.closed(lost)), strings.TrimPrefix(opens(root, lost), ": ")
	}
	return t, err != nil
}
