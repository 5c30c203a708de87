package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Revocation says that the server revoked the device. It is on the disk
// before anything is done about it, so that a power cut only delays that.
type Revocation struct {
	// Enrollment is the one that was revoked; another is not touched by it.
	Enrollment string `json:"enrollment,omitempty"`
	// Device is the id that the device had.
	Device string          `json:"device"`
	Policy wire.Revocation `json:"policy"`
	// Wiped: what wire.RevocationWipe asks for is done.
	Wiped bool `json:"wiped,omitempty"`
}

// Revocation returns the revocation, and false when there is none.
func (s *Store) Revocation() (Revocation, bool) {
	var r Revocation
	return r, s.read(revocationFile, &r)
}

// SaveRevocation replaces the revocation.
func (s *Store) SaveRevocation(r Revocation) error { return s.write(revocationFile, r) }

// ForgetRevocation removes the revocation.
func (s *Store) ForgetRevocation() error { return s.remove(revocationFile) }

// Wipe removes everything that an enrollment left in the state directory, keys
// and whatever later versions keep there included. An identity of another
// enrollment stays. To wipe again is safe.
func (s *Store) Wipe(enrollment string) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("wiping the state directory: %w", err)
	}
	for _, e := range entries {
		if slices.Contains([]string{lockFile, socketFile, revocationFile, clockFile}, e.Name()) || s.ofAnother(e.Name(), enrollment) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("wiping the state directory: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(s.dir, bodiesDir), 0o700); err != nil {
		return fmt.Errorf("wiping the state directory: %w", err)
	}
	return atomicfile.SyncDir(s.dir)
}

// ofAnother reports whether a document is an identity of another enrollment.
func (s *Store) ofAnother(name, enrollment string) bool {
	if name != identityFile && name != pendingFile {
		return false
	}
	var id Identity
	return s.read(name, &id) && id.Enrollment != enrollment
}

// Wiping reports whether the device has to be wiped, or was wiped and has no new
// identity yet. Errors come from the disk.
func (s *Store) Wiping() (Revocation, bool, error) {
	r, ok := s.Revocation()
	if !ok || r.Policy != wire.RevocationWipe {
		return r, false, nil
	}
	if !r.Wiped {
		return r, true, nil
	}
	identity, err := s.Identity()
	if errors.Is(err, ErrNoIdentity) {
		return r, true, nil
	}
	return r, err == nil && identity.Enrollment == r.Enrollment, err
}
