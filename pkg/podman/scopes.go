package podman

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/fsnotify/fsnotify"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// groupRoot is where the kernel shows control groups.
const groupRoot = "/sys/fs/cgroup"

// scopes are the control groups of containers and of their monitors, of which the kernel
// says by itself when they come, when their last process ends, and when they go. Podman's
// own events cost much more: its service looks for them at a file several times a second.
type scopes struct {
	// root is groupRoot outside of tests.
	root string

	mu sync.Mutex // guards what follows
	// known are the containers that a look found, by id.
	known map[string]known
	// kernel tells of what is watched; nil while nobody wants to know.
	kernel *fsnotify.Watcher
	// containers is the slice of those of the account.
	containers string
	// watched are the paths that it tells of.
	watched map[string]bool
	// ended are containers whose end came before it was watched for, which late signals;
	// capacity 1.
	ended []string
	late  chan struct{}
	// blind: something runs whose end these control groups don't tell, or podman does not
	// know what keeps it. So podman's events are needed.
	blind bool

	memory
}

func newScopes() *scopes { return &scopes{root: groupRoot, known: map[string]known{}} }

// known is what is known of a container.
type known struct {
	ref wire.DeploymentRef
	// scope is its control group, below root; empty while it does not run. monitor is that of
	// its monitor, empty when it was never seen.
	scope, monitor string
}

// scopeName is the name of a control group that systemd makes for podman.
type scopeName struct {
	id      string
	monitor bool
}

// parseScope reads the name of a control group.
func parseScope(name string) (s scopeName, ok bool) {
	rest, isScope := strings.CutSuffix(name, ".scope")
	rest, isPodmans := strings.CutPrefix(rest, "libpod-")
	rest, s.monitor = strings.CutPrefix(rest, "conmon-")
	var parsed id
	if !isScope || !isPodmans || parsed.UnmarshalText([]byte(rest)) != nil {
		return s, false
	}
	s.id = rest
	return s, true
}

// scopeOf is the scope that a control group of a container lies in, and that of the monitor
// beside it; empty for a container that has none.
func scopeOf(id, group string) (scope, monitor string) {
	monitor, ok := monitorGroup(id, group)
	if !ok {
		return "", ""
	}
	return path.Dir(monitor) + "/libpod-" + id + ".scope", monitor
}

// account is where systemd keeps what the account runs that a socket belongs to: the group
// of its manager, and that of containers, which comes with the first one.
func account(socket string) (manager, containers string, err error) {
	info, err := os.Stat(socket)
	if err != nil {
		return "", "", err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "", "", errors.ErrUnsupported
	case owner.Uid == 0:
		return ".", "machine.slice", nil
	}
	manager = fmt.Sprintf("user.slice/user-%d.slice/user@%[1]d.service", owner.Uid)
	return manager, manager + "/user.slice", nil
}

// open begins to watch the control groups of the account that a socket belongs to. It
// returns errors.ErrUnsupported where they don't tell enough.
func (s *scopes) open(socket string) (*fsnotify.Watcher, error) {
	manager, containers, err := account(socket)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Stat(filepath.Join(s.root, "cgroup.controllers")); s.blind || s.kernel != nil || err != nil {
		return nil, errors.ErrUnsupported // or somebody watches already
	}
	kernel, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, errors.ErrUnsupported // the account has too many already
	}
	s.kernel, s.watched, s.ended, s.late = kernel, map[string]bool{}, nil, make(chan struct{}, 1)
	s.forget()
	if err := s.add(manager); err != nil {
		s.shut()
		return nil, errors.ErrUnsupported
	}
	s.containers = containers
	s.enter(containers)
	return kernel, nil
}

// close ends the watch.
func (s *scopes) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut()
}

// shut must be called with mu held.
func (s *scopes) shut() {
	_ = s.kernel.Close()
	s.kernel, s.watched = nil, nil
	s.forget()
}

// add has the kernel tell of a path below root. mu must be held.
func (s *scopes) add(name string) error {
	if s.watched[name] {
		return nil
	}
	if err := s.kernel.Add(filepath.Join(s.root, name)); err != nil {
		return err
	}
	s.watched[name] = true
	return nil
}

// maxGroups bounds the control groups that are looked at in one: the account may make any
// number of them.
const maxGroups = 4096

// enter watches a group for those that come in it, and in its slices, which are pods. It
// returns the containers that are there, of whose coming nobody was told. mu must be held.
func (s *scopes) enter(name string) (ids []string) {
	if s.add(name) != nil {
		return nil // it is not there yet, or not any more
	}
	directory, err := os.Open(filepath.Join(s.root, name))
	if err != nil {
		return nil
	}
	defer directory.Close()
	there, _ := directory.Readdirnames(maxGroups) // it may be gone already
	for _, name := range there {
		if scope, ok := parseScope(name); ok && !scope.monitor {
			ids = append(ids, scope.id)
		}
	}
	if name == s.containers {
		for _, slice := range there {
			if strings.HasSuffix(slice, ".slice") {
				ids = append(ids, s.enter(path.Join(name, slice))...)
			}
		}
	}
	return ids
}

// leave ends the watch of a group, and of what is below it; "" is none. mu must be held.
func (s *scopes) leave(name string) {
	if name == "" {
		return
	}
	for watched := range s.watched {
		if watched == name || strings.HasPrefix(watched, name+"/") {
			_ = s.kernel.Remove(filepath.Join(s.root, watched)) // the kernel did that for what is gone
			delete(s.watched, watched)
		}
	}
}

// follow takes what a look found of a container, and watches for its end.
func (s *scopes) follow(i *inspection, ref wire.DeploymentRef, runs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := known{ref: ref}
	if runs {
		scope, monitor := scopeOf(string(i.ID), i.State.CgroupPath)
		s.blind = s.blind || scope == ""
		k.scope = scope
		if scope != "" && populated(os.DirFS(s.root), monitor) {
			k.monitor = monitor
		}
	}
	s.note(string(i.ID), k)
	if s.kernel == nil {
		return
	}
	if s.blind {
		s.signal()
	}
	if k.scope == "" {
		return
	}
	_ = s.add(path.Dir(k.scope))
	if s.add(k.scope+"/"+eventsFile) != nil || !populated(os.DirFS(s.root), k.scope) {
		s.ended = append(s.ended, string(i.ID))
		s.signal()
	}
}

// signal must be called with mu held.
func (s *scopes) signal() {
	select {
	case s.late <- struct{}{}:
	default:
	}
}

// missed returns those whose end came before it was watched for, and whether what runs has to
// be watched otherwise.
func (s *scopes) missed() (ids []string, blind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids, s.ended = s.ended, nil
	return ids, s.blind
}

// left takes that a group went.
func (s *scopes) left(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(name)
}

// came takes that a slice came, and returns the containers in it.
func (s *scopes) came(name string) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kernel == nil || name != s.containers && path.Dir(name) != s.containers {
		return nil
	}
	return s.enter(name)
}

// giveUp leaves it to podman's events from now on.
func (s *scopes) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blind = true
}

// note remembers a container, and to whom it belongs. mu must be held.
func (s *scopes) note(id string, k known) {
	if before := s.known[id].scope; before != k.scope {
		s.leave(before)
	}
	s.known[id] = k
}

// made notes to whom a container belongs that was just made.
func (s *scopes) made(id string, ref wire.DeploymentRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note(id, known{ref: ref})
}

// owner returns to whom a container belongs, as far as that is known.
func (s *scopes) owner(id string) (ref wire.DeploymentRef, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.known[id]
	return k.ref, ok
}

// keep forgets all containers but those of a list.
func (s *scopes) keep(list []container.Container) {
	ids := make(map[string]bool, len(list))
	for i := range list {
		ids[list[i].ID] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.known {
		if !ids[id] {
			s.leave(k.scope)
			delete(s.known, id)
		}
	}
}

// eventsFile is the file of a control group that says whether it has processes.
const eventsFile = "cgroup.events"

// running reports whether a group certainly has processes.
func running(groups fs.FS, group string) bool {
	events, err := readEvents(groups, group)
	return err == nil && strings.Contains("\n"+events, "\npopulated 1\n")
}
