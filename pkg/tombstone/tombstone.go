// Package tombstone keeps the list of keys that are refused for good: those of
// devices that were revoked, deleted or replaced, and those that a renewal replaced.
package tombstone

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

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

// Line is an entry as one line of JSON.
func (s Entry) Line() ([]byte, error) {
	line, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding a tombstone: %w", err)
	}
	return append(line, '\n'), nil
}

// ErrDamaged: a line is none of an entry.
var ErrDamaged = errors.New("damaged")

// ParseLine is the inverse of Line, with or without the end of the line. It returns ErrDamaged for
// what is no entry.
func ParseLine(line []byte) (s Entry, err error) {
	if err := json.Unmarshal(bytes.TrimSpace(line), &s); err != nil || !wire.ValidHash(s.Fingerprint) {
		return Entry{}, ErrDamaged
	}
	return s, nil
}

// ReasonRenewed is the Reason of a key that made room for the next one of the
// same device. Those of a device are merged in time, see Compact.
const ReasonRenewed = "renewed"

// ReasonNotAccepted is the Reason of a key of a device for which an operator accepted a
// session with another.
const ReasonNotAccepted = "not accepted"

// Journal keeps the entries of a list, apart from the API objects that it is about: who
// restores those from a backup lets nobody back in.
type Journal interface {
	// Read calls each with every entry that was acknowledged, in order. Another process may
	// have written meanwhile.
	Read(each func(Entry)) error
	// Append returns when an entry is kept for good.
	Append(Entry) error
	// Replace puts entries in the place of all. After an error either may be there.
	Replace([]Entry) error
	Close() error
}

// List is the list of tombstones. An earlier version can read what this one writes.
type List struct {
	writing sync.Mutex // guards the journal and read; it is taken before mu
	journal Journal
	// read: what is in memory is what the journal has.
	read bool

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

// Open opens the list that a file of JSON lines has, and creates the file when it is missing. A
// last line that a power cut damaged is dropped: its writer never returned.
func Open(path string) (*List, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return New(f)
}

// New returns the list that a journal has, which is the list's from then on.
func New(j Journal) (*List, error) {
	t := &List{journal: j}
	if err := t.load(); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return t, nil
}

// load is called with writing held, but for a new list.
func (t *List) load() error {
	read := &List{keys: map[string]refusal{}, merged: map[string]Entry{}}
	if err := t.journal.Read(read.take); err != nil {
		return fmt.Errorf("reading the list of revoked keys: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys, t.merged, t.read = read.keys, read.merged, true
	return nil
}

// Close closes the journal.
func (t *List) Close() error {
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.journal.Close()
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
	if !t.read {
		if err := t.load(); err != nil {
			return err
		}
	}
	if err := t.journal.Append(s); err != nil {
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
