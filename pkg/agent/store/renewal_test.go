package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func identity(enrollment, certificate string) *store.Identity {
	return &store.Identity{Device: "pi-1", Enrollment: enrollment, Key: "key of " + certificate, Certificate: certificate}
}

// present returns the identity and the one that it replaced, by certificate.
func present(t *testing.T, s *store.Store) (now, previous string) {
	t.Helper()
	id, err := s.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := s.PreviousIdentity(id); ok {
		previous = p.Certificate
	}
	return id.Certificate, previous
}

func TestRenewedIdentities(t *testing.T) {
	t.Parallel()
	a, b := identity("first", "a"), identity("first", "b")
	tests := map[string]struct {
		do            func(*store.Store) error
		now, previous string
	}{
		"renewed":            {func(*store.Store) error { return nil }, "b", "a"},
		"proven":             {(*store.Store).ForgetPrevious, "b", ""},
		"reverted":           {func(s *store.Store) error { return s.RevertIdentity(a) }, "a", ""},
		"enrolled again":     {func(s *store.Store) error { return s.SaveIdentity(identity("second", "c")) }, "c", ""},
		"cut before the new": {func(s *store.Store) error { return cut(s, "identity.json", "previous-identity.json") }, "a", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t)
			if err := errors.Join(s.SaveIdentity(a), s.SaveRenewalKey("first", "k"), s.RenewIdentity(a, b)); err != nil {
				t.Fatal(err)
			}
			if key := s.RenewalKey("first"); key != "" {
				t.Errorf("the key %q of a renewal that is done stays", key)
			}
			if err := tt.do(s); err != nil {
				t.Fatal(err)
			}
			if now, previous := present(t, s); now != tt.now || previous != tt.previous {
				t.Errorf("identity %q after %q, want %q after %q", now, previous, tt.now, tt.previous)
			}
		})
	}
}

// cut makes of one document what another has.
func cut(s *store.Store, name, from string) error {
	data, err := os.ReadFile(filepath.Join(s.Dir(), from))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir(), name), data, 0o600)
}

func TestDocumentsAreOfOneEnrollment(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	if err := errors.Join(s.SaveRenewalKey("first", "k"), s.SaveNonce("first", "n")); err != nil {
		t.Fatal(err)
	}
	for enrollment, want := range map[string][2]string{"first": {"k", "n"}, "second": {}} {
		if got := [2]string{s.RenewalKey(enrollment), s.Nonce(enrollment)}; got != want {
			t.Errorf("%s: %q", enrollment, got)
		}
	}
}

func TestSecretsAreForTheAgentOnly(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	a := identity("first", "a")
	err := errors.Join(s.SaveIdentity(a), s.RenewIdentity(a, identity("first", "b")), s.SavePendingIdentity(a), s.SaveRenewalKey("first", "k"),
		s.SaveNonce("first", "n"), s.SaveRevocation(store.Revocation{Policy: wire.RevocationStop}))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(s.Dir(), func(path string, d fs.DirEntry, err error) error {
		if info, infoErr := d.Info(); infoErr == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
