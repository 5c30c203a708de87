package crashes

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/rights"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Store keeps crashes in a directory, the newest of each service. It is for one agent.
// What it cannot write is lost and logged, once until it can again.
type Store struct {
	dir    string
	device func() Device
	log    *slog.Logger

	mu      sync.Mutex // guards the directory and what follows
	failing bool
}

// New returns a store. device says how the device is; nil when nobody knows. The directory
// is made when there is something to keep.
func New(dir string, device func() Device, log *slog.Logger) *Store {
	return &Store{dir: dir, device: device, log: log}
}

// Keep keeps a crash, and forgets older ones that it has no more room for.
func (s *Store) Keep(c Crash) {
	if s.device != nil {
		c.Device = s.device()
	}
	c.Output = c.Output[max(0, len(c.Output)-MaxOutput):]
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.keep(c)
	if err != nil && !s.failing {
		s.log.Warn("what is known of a crash could not be kept: no further failure of this is logged until one is", "service", c.Name.String(), "error", err)
	}
	s.failing = err != nil
}

func (s *Store) keep(c Crash) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("it takes %d bytes", len(data))
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	before, err := files(s.dir)
	if err != nil {
		return err
	}
	next := file{service: serviceOf(c), size: int64(len(data))}
	if len(before) > 0 {
		next.number = before[0].number + 1
	}
	// It is there before an older one goes: on a full disk those stay.
	if err := atomicfile.Write(filepath.Join(s.dir, next.name()), data, 0o600); err != nil {
		return err
	}
	return s.remove(surplus(append([]file{next}, before...)))
}

// surplus are the files, newest first, that there is no room for.
func surplus(all []file) (old []file) {
	kept, bytes, ofService := 0, int64(0), map[string]int{}
	for _, f := range all {
		if kept >= maxPerDevice || ofService[f.service] >= maxPerService || bytes+f.size > maxBytes {
			old = append(old, f)
			continue
		}
		kept, bytes = kept+1, bytes+f.size
		ofService[f.service]++
	}
	return old
}

func (s *Store) remove(old []file) error {
	var errs []error
	for _, f := range old {
		if err := os.Remove(filepath.Join(s.dir, f.name())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Forget removes the crashes of a Deployment.
func (s *Store) Forget(ref wire.DeploymentRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := files(s.dir)
	if err == nil {
		err = s.remove(slices.DeleteFunc(all, func(f file) bool { return f.service[:digits] != short(ref.String()) }))
	}
	if err != nil {
		s.log.Warn("crashes of a Deployment could not be removed", "deployment", ref.String(), "error", err)
	}
}

// Read returns the crashes that a directory holds, newest first. Files that are damaged are
// left out, as after a power cut on a medium that lies. Without the directory there are
// none.
func Read(dir string) ([]Crash, error) {
	all, err := files(dir)
	if err != nil {
		return nil, fmt.Errorf("reading crashes: %w", err)
	}
	var found []Crash
	for _, f := range all[:min(len(all), maxPerDevice)] {
		var c Crash
		data, err := rights.ReadFile(filepath.Join(dir, f.name()), maxFile)
		if err == nil && json.Unmarshal(data, &c) == nil && serviceOf(c) == f.service {
			found = append(found, c)
		}
	}
	return found, nil
}

// file is a file with a crash. Its name says whose it is and how new, by no clock.
type file struct {
	// service has digits of a hash of the Deployment and digits of one of the service.
	service string
	number  uint64
	size    int64
}

// digits is how much of a hash a file's name has.
const digits = 16

var fileName = regexp.MustCompile(`^([0-9a-f]{32})-([0-9]{1,18})\.json$`)

func (f file) name() string { return fmt.Sprintf("%s-%012d.json", f.service, f.number) }

func short(text string) string { return wire.Sum([]byte(text)).String()[:digits] }

func serviceOf(c Crash) string { return short(c.DeploymentRef.String()) + short(c.Service) }

// files lists those of a directory, newest first.
func files(dir string) ([]file, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []file
	for _, e := range entries {
		parts := fileName.FindStringSubmatch(e.Name())
		info, err := e.Info()
		if parts == nil || err != nil {
			continue
		}
		number, err := strconv.ParseUint(parts[2], 10, 64)
		if f := (file{service: parts[1], number: number, size: info.Size()}); err == nil && f.name() == e.Name() {
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b file) int { return cmp.Or(cmp.Compare(b.number, a.number), cmp.Compare(a.service, b.service)) })
	return all, nil
}
