package store_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// small returns a directory on a file system of so many bytes.
func small(t testing.TB, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); errors.Is(err, unix.EPERM) {
		t.Skip("only root mounts file systems")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all space that is left.
func fill(t testing.TB, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "ballast"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// writes writes one of everything that the agent keeps, with a content of its own.
func writes(s *store.Store, n int) error {
	m := numbered(uint64(n + 1))
	for range 200 {
		m.Servers = append(m.Servers, "tls://"+m.Entries[0].Hash)
	}
	body := []byte(strings.Repeat("b", 200<<10) + m.Version.String())
	return errors.Join(
		s.SaveManifest(m),
		s.SaveMemory(store.Memory{Manifest: m.Version}),
		s.SaveBody(wire.Sum(body).String(), body),
		s.CollectBodies(map[string]bool{wire.Sum(body).String(): true}),
		s.Notes("containers").Save(m),
		s.SaveNonce("", m.Version.String()),
	)
}

// The state is written on a full disk, again and again, while another program takes every
// byte that becomes free. When there is space again the agent takes back what it used.
func TestStateIsWrittenOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := small(t, "size=8m")
	s, err := store.Open(filepath.Join(dir, "state"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Lock(), writes(s, 0)); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fill(t, dir)
	for n := range 20 {
		if err := writes(s, n); err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
		fill(t, dir)
	}
	if m, intact := s.Manifest(); !intact || m.Seq != 20 {
		t.Errorf("manifest %+v, intact %t", m, intact)
	}
	if whole, err := s.Reserve(); whole || err != nil {
		t.Errorf("the space that is kept is whole: %t, %v", whole, err)
	}
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	if whole, err := s.Reserve(); !whole || err != nil {
		t.Errorf("when there is space again it is whole: %t, %v", whole, err)
	}
}

// Without space that is kept, the first write fails.
func TestStateIsNotWrittenWithoutTheReserve(t *testing.T) {
	t.Parallel()
	dir := small(t, "size=8m")
	s, err := store.Open(filepath.Join(dir, "state"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	if err := s.SaveManifest(numbered(1)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("without it: %v", err)
	}
	if err := s.Lock(); err != nil { // the agent starts all the same
		t.Fatal(err)
	}
	defer s.Close()
	if whole, err := s.Reserve(); whole || err != nil {
		t.Errorf("whole: %t, %v", whole, err)
	}
}

// Some file systems have a number of files, and no more.
func TestStateIsWrittenWithoutFilesLeft(t *testing.T) {
	t.Parallel()
	dir := small(t, "size=8m,nr_inodes=12")
	s, err := store.Open(filepath.Join(dir, "state"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Lock(), s.SaveNonce("", "first")); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for n := 0; ; n++ {
		if err := os.Mkdir(filepath.Join(dir, string(rune('a'+n))), 0o700); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, nonce := range []string{"second", "third"} {
		if err := s.SaveNonce("", nonce); err != nil || s.Nonce("") != nonce {
			t.Errorf("%s: %v", nonce, err)
		}
	}
}
