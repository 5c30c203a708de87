package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// withSecrets returns a store that has secrets, and where.
func withSecrets(t *testing.T) (s *store.Store, log *bytes.Buffer, path string) {
	t.Helper()
	s, log = open(t)
	if err := s.SaveSecrets(digest, passwords()); err != nil {
		t.Fatal(err)
	}
	return s, log, filepath.Join(s.Dir(), "secrets", digest)
}

func passwords() store.Secrets { return store.Secrets{"db": {"password": []byte("hunter2")}} }

// What nobody could ever read is removed, so that it is fetched again.
func TestDamagedSecretsAreRemoved(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, path string, sealed []byte) error{
		"empty":    func(_ *testing.T, path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"cut off":  func(_ *testing.T, path string, sealed []byte) error { return os.WriteFile(path, sealed[:20], 0o600) },
		"too long": func(_ *testing.T, path string, _ []byte) error { return os.Truncate(path, 3*wire.MaxSecrets+1) },
		"a directory": func(_ *testing.T, path string, _ []byte) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, log, path := withSecrets(t)
			sealed, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := harm(t, path, sealed); err != nil {
				t.Fatal(err)
			}
			if got := s.Secrets(digest); got != nil {
				t.Errorf("they are %v", got)
			}
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(log.String(), "damaged") {
				t.Errorf("the file: %v, log: %s", err, log)
			}
		})
	}
}

// What cannot be read at this moment is kept, since it may be all that there is without the
// server: it is neither removed nor taken for an empty set.
func TestSecretsThatCannotBeReadAreKept(t *testing.T) {
	t.Parallel()
	s, log, path := withSecrets(t)
	key := filepath.Join(s.Dir(), "secrets.key")
	if err := errors.Join(os.Rename(key, key+".aside"), os.Mkdir(key, 0o700)); err != nil {
		t.Fatal(err)
	}
	if got := s.Secrets(digest); got != nil || !strings.Contains(log.String(), "cannot be read") {
		t.Errorf("without their key they are %v; log: %s", got, log)
	}
	if err := errors.Join(os.Remove(key), os.Rename(key+".aside", key)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(passwords(), s.Secrets(digest)); diff != "" {
		t.Fatalf("with their key (-want +got):\n%s", diff)
	}
	// A right that is missing stands for every other error of the moment.
	body := []byte(`{"type":"PodmanV0","data":{}}`)
	hash := wire.Sum(body).String()
	if err := s.SaveBody(hash, body); err != nil {
		t.Fatal(err)
	}
	bodyPath := filepath.Join(s.Dir(), "bodies", hash)
	if err := errors.Join(os.Chmod(path, 0), os.Chmod(bodyPath, 0), os.Chmod(key, 0o644)); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Dir(s.Dir())
	for _, dir := range []string{filepath.Dir(temp), temp, s.Dir(), filepath.Dir(path), filepath.Dir(bodyPath)} {
		if err := os.Chmod(dir, 0o777); err != nil { // in which everybody may remove files
			t.Fatal(err)
		}
	}
	log.Reset()
	var secrets store.Secrets
	var got []byte
	asNobody(t, func() { secrets, got = s.Secrets(digest), s.Body(hash) })
	if secrets != nil || got != nil || strings.Count(log.String(), "permission denied") != 2 {
		t.Errorf("without the right they are %v and %s; log: %s", secrets, got, log)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chmod(bodyPath, 0o600)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(passwords(), s.Secrets(digest)); diff != "" || !bytes.Equal(s.Body(hash), body) {
		t.Errorf("with the right (-want +got):\n%s\nthe body is %s", diff, s.Body(hash))
	}
}

// asNobody does something with the rights of another account than root to files.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	const nobody = 65534
	if os.Geteuid() == 0 {
		runtime.LockOSThread() // whose right it is
		defer runtime.UnlockOSThread()
		if err := unix.Setfsuid(nobody); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(0) }()
	}
	do()
}
