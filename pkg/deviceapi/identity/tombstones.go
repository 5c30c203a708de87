package identity

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Tombstone records that a key was thrown out.
type Tombstone struct {
	// Fingerprint is the SHA-256 of the public key, in hex.
	Fingerprint string `json:"fingerprint"`
	// Device is the name that the key had.
	Device string `json:"device"`
	// Reason is for people: "revoked", "deleted",
	// "replaced" or "renewed".
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

// Tombstones is the list of keys that were thrown out: a file of JSON lines. It
// is kept apart from the API store, so that restoring an older backup lets nobody
// back in. An earlier version can read what this one writes.
type Tombstones struct {
	path string

	mu sync.RWMutex // guards what follows
	// file is nil when the file has to be opened again.
	file *os.File
	keys map[string]buried
	// merged are the tombstones that stand for earlier keys, by device.
	merged map[string]Tombstone
	// size is the length of what is known to be whole.
	size int64
}

// buried is what is kept in memory of a key that was thrown out.
type buried struct {
	revocation wire.Revocation
	// renewed: it made room for the next key of its device, which goes on.
	renewed bool
}

// OpenTombstones reads the file at path and creates it when it is missing. A
// last line that a power cut damaged is dropped: its writer never returned.
func OpenTombstones(path string) (*Tombstones, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the list of revoked keys: %w", err)
	}
	t := &Tombstones{path: path, file: f, keys: map[string]buried{}, merged: map[string]Tombstone{}}
	if err := errors.Join(t.load(), atomicfile.SyncDir(filepath.Dir(path))); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the list of revoked keys %s: %w", path, err), f.Close())
	}
	return t, nil
}

// Close closes the file.
func (t *Tombstones) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// Has reports whether the key was thrown out.
func (t *Tombstones) Has(fingerprint string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, has := t.keys[fingerprint]
	return has
}

// Revocation returns what the holder of a key that was thrown out should do.
func (t *Tombstones) Revocation(fingerprint string) (r wire.Revocation, has bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b, has := t.keys[fingerprint]
	return b.revocation, has
}

// Renewed reports whether the key was thrown out because a renewal put another in
// its place.
func (t *Tombstones) Renewed(fingerprint string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.keys[fingerprint].renewed
}

// Add throws a key out. It is on disk when Add returns. Adding it again does
// nothing, but for another Revocation.
func (t *Tombstones) Add(s Tombstone) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, has := t.keys[s.Fingerprint]; has && b.revocation == s.Revocation {
		return nil
	}
	return t.write(s)
}

// write is called with mu held.
func (t *Tombstones) write(s Tombstone) error {
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

// take makes a tombstone count. Of two for one key the last counts.
func (t *Tombstones) take(s Tombstone) {
	t.keys[s.Fingerprint] = buried{s.Revocation, s.Reason == ReasonRenewed}
	switch {
	case !s.CertificatesUntil.IsZero():
		t.merged[s.Device] = s
	case t.merged[s.Device].Fingerprint == s.Fingerprint:
		delete(t.merged, s.Device)
	}
}

// AddAll throws every key of a device out, each as s says.
func (t *Tombstones) AddAll(keys Keys, s Tombstone) error {
	for _, key := range []string{keys.Current, keys.Next} {
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
func (t *Tombstones) append(line []byte) error {
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

// reopen opens the file that took the place of the one before. It is never made
// here: an empty one would let everybody in at the next start.
func (t *Tombstones) reopen() (err error) {
	t.file, err = os.OpenFile(t.path, os.O_RDWR, 0o600)
	return err
}

func (t *Tombstones) load() error {
	return t.each(math.MaxInt64, func(s Tombstone, length int) {
		t.take(s)
		t.size += int64(length)
	})
}

// each reads so many bytes of the file, line by line.
func (t *Tombstones) each(size int64, f func(s Tombstone, length int)) error {
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
		var s Tombstone
		if err := json.Unmarshal(bytes.TrimSpace(line), &s); err != nil || !wire.ValidHash(s.Fingerprint) {
			return fmt.Errorf("damaged at byte %d: restore the file from a backup", at)
		}
		f(s, len(line))
		at += int64(len(line))
	}
}
