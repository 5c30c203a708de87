package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ledgerFile is the name of the ledger in the state directory.
const ledgerFile = "ledger.json"

// ledger is what was put on the device.
type ledger struct {
	// Deployments are by the String of their names.
	Deployments map[string]*entry `json:"deployments"`
	// Dirs are the directories that were made. Each is deleted when it is empty.
	Dirs []string `json:"dirs,omitempty"`
}

// entry is what a Deployment has.
type entry struct {
	wire.DeploymentRef
	// Mark is that of what was applied whole, and empty while something is under way.
	Mark string `json:"mark,omitempty"`
	// Halted: the agent stopped the Deployment.
	Halted    bool            `json:"halted,omitempty"`
	ChangedAt time.Time       `json:"changedAt"`
	Files     map[string]*put `json:"files"`
}

// put is a file that was put, or is about to be.
type put struct {
	// Sums are the SHA-256 of what may be there in hex: one, but while it changes.
	Sums []string `json:"sums"`
	Mode uint32   `json:"mode"`
	UID  int      `json:"uid"`
	GID  int      `json:"gid"`
}

func (e *entry) clone() *entry {
	c := *e
	c.Files = map[string]*put{}
	for path, p := range e.Files {
		copied := *p
		copied.Sums = slices.Clone(p.Sums)
		c.Files[path] = &copied
	}
	return &c
}

func readLedger(dir string) (*ledger, error) {
	l := &ledger{Deployments: map[string]*entry{}}
	path := filepath.Join(dir, ledgerFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(data, l)
	}
	if err != nil {
		return nil, fmt.Errorf("the list of what was put here cannot be read, so nothing is changed: %s: %w", path, err)
	}
	if l.Deployments == nil {
		l.Deployments = map[string]*entry{}
	}
	return l, nil
}

func (l *ledger) save(dir string) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, ledgerFile), data, 0o600)
}

// claimant returns the Deployment other than ref that has a path, or something that
// excludes it.
func (l *ledger) claimant(ref wire.DeploymentRef, path string) (other, its string) {
	for _, name := range slices.Sorted(maps.Keys(l.Deployments)) {
		if name == ref.String() {
			continue
		}
		for _, its := range slices.Sorted(maps.Keys(l.Deployments[name].Files)) {
			if its == path || below(its, path) || below(path, its) {
				return name, its
			}
		}
	}
	return "", ""
}

// below reports whether a path lies below another.
func below(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
