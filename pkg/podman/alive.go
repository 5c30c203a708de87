package podman

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// cgroups is where the kernel shows control groups.
var cgroups = os.DirFS("/sys/fs/cgroup")

// maxGroupEvents bounds the file that says whether a control group has processes.
const maxGroupEvents = 4 << 10

// alive reports whether a container has processes, as the kernel says. Podman names the
// group of a process, too, that has ended and that nobody has waited for: to the kernel
// such a group is empty. The agent sees no process of another account, but every control
// group. What cannot be told
// counts as alive: version 1 of control groups, and an engine that makes none. One that
// has systemd make them fails where it cannot, so that a scope that is not there is gone.
func alive(groups fs.FS, id, group string) bool {
	group = strings.TrimPrefix(path.Clean(group), "/")
	if !fs.ValidPath(group) || id == "" || !strings.Contains(group, id) {
		return true
	}
	if _, err := fs.Stat(groups, "cgroup.controllers"); err != nil {
		return true // version 1, or none
	}
	events, err := readEvents(groups, group)
	if errors.Is(err, fs.ErrNotExist) {
		return !strings.Contains(group, ".scope")
	}
	return err != nil || !empty(events)
}

// readEvents reads what the kernel says of the processes of a control group.
func readEvents(groups fs.FS, group string) (string, error) {
	f, err := groups.Open(path.Join(group, "cgroup.events"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxGroupEvents))
	return string(data), err
}

// empty reports whether a control group has no process.
func empty(events string) bool {
	for line := range strings.Lines(events) {
		if strings.TrimSpace(line) == "populated 0" {
			return true
		}
	}
	return false
}
