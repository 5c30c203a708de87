package podman

import (
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// monitors remembers which containers have a monitor, conmon, in a control group of its
// own. Podman does not notice that a monitor is gone. Nobody notices the end of such a
// container then, and with slirp4netns its ports are not forwarded any more, since what
// does that ends with the monitor.
type monitors struct {
	mu   sync.Mutex // guards seen
	seen map[string]bool
}

// lost reports whether a container that runs had a monitor when it was seen before, and has
// none now. Not every podman gives a monitor a group: so one that was never seen says
// nothing.
func (m *monitors) lost(groups fs.FS, i *inspection) bool {
	group, ok := monitorGroup(string(i.ID), i.State.CgroupPath)
	if !ok {
		return false
	}
	there := populated(groups, group)
	m.mu.Lock()
	defer m.mu.Unlock()
	if there {
		if m.seen == nil {
			m.seen = map[string]bool{}
		}
		m.seen[string(i.ID)] = true
	}
	return !there && m.seen[string(i.ID)]
}

// keep forgets all other containers.
func (m *monitors) keep(list []container.Container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := make(map[string]bool, len(m.seen))
	for _, c := range list {
		if m.seen[c.ID] {
			kept[c.ID] = true
		}
	}
	m.seen = kept
}

// monitorGroup is the control group that systemd made for the monitor of a container, by
// that of the container.
func monitorGroup(id, group string) (string, bool) {
	group = strings.TrimPrefix(path.Clean(group), "/")
	before, _, found := strings.Cut(group, "libpod-"+id+".scope")
	if id == "" || !found || !fs.ValidPath(group) {
		return "", false
	}
	return before + "libpod-conmon-" + id + ".scope", true
}

// populated reports whether a control group has processes, or whether that cannot be told.
func populated(groups fs.FS, group string) bool {
	events, err := readEvents(groups, group)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || !empty(events)
}
