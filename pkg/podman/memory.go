package podman

import (
	"os"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// rememberFor is how long a look at all containers answers for later ones: names and
// what ended may be changed by hand, of which no control group tells.
const rememberFor = 5 * time.Minute

// memory is the last look at all containers, as long as it is true. The mu of scopes guards
// it.
type memory struct {
	// turn counts what may have changed a container.
	turn uint64
	kept bool
	list []container.Container
	at   time.Time
}

// forget has the next look ask podman. The mu of scopes must be held.
func (m *memory) forget() {
	m.turn++
	m.kept, m.list = false, nil
}

// changed has the next look ask podman: a container may be another one.
func (s *scopes) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
}

// begin notes that a look at all containers begins.
func (s *scopes) begin() (turn uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turn
}

// remember takes what a look at all containers found, unless something changed meanwhile or
// it cannot be told later whether that is still true.
func (s *scopes) remember(turn uint64, list []container.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if turn != s.turn || s.kernel == nil || s.blind {
		return
	}
	for i := range list {
		if !s.same(&list[i]) {
			return
		}
	}
	s.kept, s.list, s.at = true, list, time.Now()
}

// recall answers for podman as long as the kernel says that nothing changed since the last
// look at everything: what runs has processes, and nobody was told of others. ref is as for
// List.
func (s *scopes) recall(ref wire.DeploymentRef) (list []container.Container, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kept || s.kernel == nil || time.Since(s.at) >= rememberFor {
		return nil, false
	}
	list = make([]container.Container, 0, len(s.list))
	for i := range s.list {
		c := &s.list[i]
		if ref != (wire.DeploymentRef{}) && c.Ref != ref {
			continue
		}
		if !s.same(c) {
			s.forget()
			return nil, false
		}
		list = append(list, *c)
	}
	return list, true
}

// same reports whether the kernel says of a container what podman said. mu must be held.
func (s *scopes) same(c *container.Container) bool {
	if c.Odd() {
		return false
	}
	k := s.known[c.ID]
	groups := os.DirFS(s.root)
	switch c.State {
	case container.StateRunning:
		return k.scope != "" && running(groups, k.scope) && (k.monitor == "" || running(groups, k.monitor))
	case container.StateExited:
		return true
	}
	return false
}
