// Package tombstone keeps the list of keys that are refused for good: those of
// devices that were revoked, deleted or replaced, and those that a renewal replaced.
package tombstone

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Entry is a tombstone: it says that a key is refused for good.
type Entry struct {
	// Fingerprint is the SHA-256 of the public key, in hex.
	Fingerprint string `json:"fingerprint"`
	// Device is the name that the key had.
	Device string `json:"device"`
	// Reason is for people: "revoked", "deleted",
	// "replaced", ReasonNotAccepted or ReasonRenewed.
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
	// Revocation is what the device should do when it asks.
	Revocation wire.Revocation `json:"revocation,omitempty"`
	// CertificatesUntil says that the tombstone stands for all keys that the device
	// had earlier: every certificate of the device that ends by then is refused.
	CertificatesUntil time.Time `json:"certificatesUntil,omitzero"`
}

// ReasonRenewed is the Reason of a key that made room for the next one of the
// same device. Those of a device are merged in time, see Compact.
const ReasonRenewed = "renewed"

// ReasonNotAccepted is the Reason of a key of a device for which an operator accepted a
// session with another.
const ReasonNotAccepted = "not accepted"

// List is the list of tombstones: a file of JSON lines. It
// is kept apart from the API store, so that restoring an older backup lets nobody
// back in. An earlier version can read what this one writes.
type List struct {
	path string
	// replaceFile is atomicfile.Write, but in tests.
	replaceFile func(path string, data []byte, perm fs.FileMode) error

	writing sync.Mutex // guards file and size; it is taken before mu
	// file is nil when the file has to be opened again.
	file *os.File
	// size is the length of what is known to be whole.
	size int64

	// mu guards what follows. It is not held during a write to the disk: whoever
	// connects meanwhile would have to wait.
	mu   sync.RWMutex
	keys map[string]refusal
	// merged are the tombstones that stand for earlier keys, by device.
	merged map[string]Entry
}

// refusal is what is kept in memory of a tombstone.
type refusal struct {
	revocation wire.Revocation
	// why is how much it weighs.
	why weight
}

// weight orders the reasons of tombstones: one never takes back what weighs more.
type weight int

const (
	// renewed: the key made room for the next one of its device, which goes on.
	renewed weight = iota
	// notAccepted: the key is that of a copy.
	notAccepted
	// revoked: an operator decided about the device, and may change what it should do.
	revoked
)

func weightOf(reason string) weight {
	switch reason {
	case ReasonRenewed:
		return renewed
	case ReasonNotAccepted:
		return notAccepted
	}
	return revoked
}

// refusalOf returns what becomes of a refusal, if there is one, with another tombstone of
// the same key: of two that weigh the same the last counts.
func refusalOf(s Entry, was refusal, has bool) refusal {
	if why := weightOf(s.Reason); !has || why >= was.why {
		return refusal{s.Revocation, why}
	}
	return was
}

// Open reads the file at path and creates it when it is missing. A
// last line that a power cut damaged is dropped: its writer never returned.
func Open(path string) (*List, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("opening the list of revoked keys: %w", err)
	}
	t := &List{path: path, replaceFile: atomicfile.Write}
	if err := t.reopen(); err != nil {
		return nil, fmt.Errorf("reading the list of revoked keys %s: %w", path, err)
	}
	return t, nil
}

// Close closes the file.
func (t *List) Close() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// Has reports whether a key is refused for good.
func (t *List) Has(fingerprint string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, has := t.keys[fingerprint]
	return has
}

// Revocation returns what the holder of a refused key should do.
func (t *List) Revocation(fingerprint string) (r wire.Revocation, has bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b, has := t.keys[fingerprint]
	return b.revocation, has
}

// Renewed reports whether a key is refused because a renewal put another in its
// place.
func (t *List) Renewed(fingerprint string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	was, has := t.keys[fingerprint]
	return has && was.why == renewed
}

// Add refuses a key for good. The tombstone is on disk when Add returns. Adding it again does
// nothing, but for another Revocation or a Reason that weighs more: a key that an operator
// revoked is not merely one that was renewed afterwards.
func (t *List) Add(s Entry) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.mu.RLock()
	was, has := t.keys[s.Fingerprint]
	t.mu.RUnlock()
	if has && refusalOf(s, was, has) == was {
		return nil
	}
	return t.write(s)
}

// write is called with writing held.
func (t *List) write(s Entry) error {
	line, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding a tombstone: %w", err)
	}
	if err := t.append(append(line, '\n')); err != nil {
		return fmt.Errorf("writing a tombstone: %w", err)
	}
	t.take(s)
	return nil
}

// take makes a tombstone count.
func (t *List) take(s Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, has := t.keys[s.Fingerprint]
	t.keys[s.Fingerprint] = refusalOf(s, was, has)
	switch {
	case !s.CertificatesUntil.IsZero():
		t.merged[s.Device] = s
	case t.merged[s.Device].Fingerprint == s.Fingerprint:
		delete(t.merged, s.Device)
	}
}

// AddAll refuses keys for good, each as s says. Empty ones are left out.
func (t *List) AddAll(s Entry, keys ...string) error {
	for _, key := range keys {
		if key == "" {
			continue
		}
		s.Fingerprint = key
		if err := t.Add(s); err != nil {
			return err
		}
	}
	return nil
}

// append adds a line. What a power cut or an attempt on a full disk left
// behind is cut off first: in the middle of the file it would be damage.
func (t *List) append(line []byte) error {
	if t.file == nil {
		if err := t.reopen(); err != nil {
			return err
		}
	}
	if err := t.file.Truncate(t.size); err != nil {
		return err
	}
	if _, err := t.file.WriteAt(line, t.size); err != nil {
		return err
	}
	if err := t.file.Sync(); err != nil {
		return err
	}
	t.size += int64(len(line))
	return nil
}

// reopen opens and reads the file that has the list's name by now, and makes sure
// that it keeps the name. The file is never made here: an empty one would let
// everybody in at the next start.
func (t *List) reopen() error {
	f, err := os.OpenFile(t.path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	read := &List{file: f, keys: map[string]refusal{}, merged: map[string]Entry{}}
	if err := errors.Join(read.load(), atomicfile.SyncDir(filepath.Dir(t.path))); err != nil {
		return errors.Join(err, f.Close())
	}
	t.file, t.size = f, read.size
	t.mu.Lock()
	t.keys, t.merged = read.keys, read.merged
	t.mu.Unlock()
	return nil
}

func (t *List) load() error {
	return t.each(math.MaxInt64, func(s Entry, length int) {
		t.take(s)
		t.size += int64(length)
	})
}

// each reads so many bytes of the file, line by line.
func (t *List) each(size int64, f func(s Entry, length int)) error {
	var at int64
	r := bufio.NewReader(io.NewSectionReader(t.file, 0, size))
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // what is left has no end of line: it was never acknowledged
		}
		if err != nil {
			return err
		}
		var s Entry
		if err := json.Unmarshal(bytes.TrimSpace(line), &s); err != nil || !wire.ValidHash(s.Fingerprint) {
			return fmt.Errorf("damaged at byte %d: restore the file from a backup", at)
		}
		f(s, len(line))
		at += int64(len(line))
	}
}
