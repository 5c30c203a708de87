package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/rights"
)

// ErrLocked: another agent uses the state directory.
var ErrLocked = errors.New("state directory is in use by another fleet-agent")

// maxDocument bounds the JSON documents in the state directory, in bytes: a
// manifest of wire.MaxEntries is a quarter of it.
const maxDocument = 1 << 20

const (
	identityFile             = "identity.json"
	pendingFile              = "pending-identity.json"
	previousFile             = previousPrefix + identityFile
	spareFile                = "spare-identity.json"
	renewalFile              = "renewal.json"
	manifestFile             = "manifest.json"
	memoryFile               = "memory.json"
	nonceFile                = "nonce.json"
	clockFile                = "clock.json"
	notesPrefix, notesSuffix = "driver-", ".json"
	lockFile                 = "lock"
	// socketFile is package control's.
	socketFile     = "control.sock"
	revocationFile = "revocation.json"
	bodiesDir      = "bodies"
)

// Store is a state directory. Its methods may be called concurrently as long
// as each document has one writer.
type Store struct {
	dir     string
	log     *slog.Logger
	lock    *os.File
	reserve reserve
}

// Open opens a state directory, and makes it when it does not exist. It takes
// no lock, so that others may read beside a running agent.
func Open(dir string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, bodiesDir), 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	return View(dir, log), nil
}

// View is Open for those who only read: it makes nothing, and the directory need
// not exist.
func View(dir string, log *slog.Logger) *Store {
	return &Store{dir: dir, log: log, reserve: reserve{path: filepath.Join(dir, reserveFile)}}
}

// Dir is the path of the state directory.
func (s *Store) Dir() string { return s.dir }

// CrashesDir is where package crashes keeps what it is for.
func (s *Store) CrashesDir() string { return filepath.Join(s.dir, crashes.Dir) }

// Lock keeps a second agent out until Close. It returns ErrLocked when another
// one is there.
func (s *Store) Lock() error {
	path := filepath.Join(s.dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("locking the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w: %s", ErrLocked, s.dir)
		}
		return fmt.Errorf("locking %s: %w", path, err)
	}
	s.lock = f
	if err := atomicfile.Sweep(s.dir, filepath.Join(s.dir, bodiesDir), filepath.Join(s.dir, secretsDir), s.CrashesDir()); err != nil {
		s.log.Warn("sweeping the state directory", "error", err)
	}
	if _, err := s.Reserve(); err != nil {
		s.log.Warn("a full disk will keep the agent from writing its state", "error", err)
	}
	if err := s.mirrorIdentity(); err != nil {
		s.log.Warn("the copy of the identity could not be written", "error", err)
	}
	return nil
}

// Close gives up the lock.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Close()
}

func (s *Store) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	return s.put(filepath.Join(s.dir, name), append(data, '\n'))
}

// read decodes a document into v and reports whether it is there and whole.
// What is damaged counts as absent, and is named in the log.
func (s *Store) read(name string, v any) bool {
	data, err := readFile(filepath.Join(s.dir, name), maxDocument)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false
	case err != nil:
	case len(strings.TrimSpace(string(data))) == 0:
		err = errors.New("empty file")
	default:
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		s.damaged(name, err)
		return false
	}
	return true
}

// errDamage is wrapped by errors about what a file holds.
var errDamage = errors.New("damaged")

// discard removes a file that can be fetched again, if what is wrong is what it holds or is. An
// error of the moment, as when no more files can be opened or the medium does not answer, says
// nothing of that: without the server, the file may be all that there is.
func (s *Store) discard(name string, err error) {
	if !errors.Is(err, errDamage) && !errors.Is(err, rights.ErrTooLong) && !errors.Is(err, rights.ErrNotRegular) {
		s.unreadable(name, err)
		return
	}
	s.damaged(name, err)
	_ = os.Remove(filepath.Join(s.dir, name)) // at worst it is found damaged again
}

func (s *Store) unreadable(name string, err error) {
	s.log.Warn("file in the state directory cannot be read", "file", name, "error", err)
}

func (s *Store) damaged(name string, err error) {
	s.log.Warn("file in the state directory is damaged and not used", "file", name, "error", err)
}
