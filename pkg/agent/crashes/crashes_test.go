package crashes_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

var (
	web = wire.DeploymentRef{Namespace: "shop", Name: "web"}
	api = wire.DeploymentRef{Namespace: "shop", Name: "api"}
)

// crash is the one of a service that ended with a code.
func crash(ref wire.DeploymentRef, service string, code int) crashes.Crash {
	return crashes.Crash{Name: services.Name{DeploymentRef: ref, Service: service}, ExitCode: code, Seen: time.Unix(int64(code), 0).UTC()}
}

// open returns a store, its directory, and what it logs.
func open(t *testing.T, device func() crashes.Device) (s *crashes.Store, dir string, logged *bytes.Buffer) {
	t.Helper()
	dir, logged = filepath.Join(t.TempDir(), "crashes"), new(bytes.Buffer)
	return crashes.New(dir, device, slog.New(slog.NewTextHandler(logged, nil))), dir, logged
}

// kept lists what a directory holds, as "<deployment>/<service> <exit code>".
func kept(t *testing.T, dir string) (list []string) {
	t.Helper()
	all, err := crashes.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		list = append(list, fmt.Sprintf("%s/%s %d", c.DeploymentRef.Name, c.Service, c.ExitCode))
	}
	return list
}

func expect(t *testing.T, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, kept(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	device := crashes.Device{Connected: true, Manifest: wire.Version{Epoch: "e", Term: 1, Seq: 2}, MemorySize: 2, MemoryAvailable: 1, Disks: []crashes.Disk{{Name: "/", Size: 4, Used: 3}}}
	s, dir, logged := open(t, func() crashes.Device { return device })
	c := crash(web, "front", 137)
	c.Container, c.Image, c.OutOfMemory, c.Restarts, c.Ran = "shop_web_front", "localhost/app:1", true, 4, time.Minute
	c.Boot, c.Uptime, c.Ended = "b", time.Hour, c.Seen.Add(-time.Second)
	c.Output = append(bytes.Repeat([]byte("x"), crashes.MaxOutput), "\xff\x00last words\n"...)
	s.Keep(c)
	all, err := crashes.Read(dir)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d crashes: %v", len(all), err)
	}
	c.Device, c.Output = device, c.Output[len(c.Output)-crashes.MaxOutput:]
	if diff := cmp.Diff(c, all[0]); diff != "" {
		t.Error(diff)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, firstFile(t, dir): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v: %v", path, info.Mode(), err)
		}
	}
	if logged.Len() > 0 {
		t.Error(logged)
	}
}

func firstFile(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d files: %v", len(entries), err)
	}
	return filepath.Join(dir, entries[0].Name())
}

// A service that ends all the time does not push out what is known of others, and all of
// them do not fill the disk.
func TestItIsBounded(t *testing.T) {
	t.Parallel()
	s, dir, _ := open(t, nil)
	s.Keep(crash(api, "one", 100))
	for n := range 10 {
		s.Keep(crash(web, "front", n))
		s.Keep(crash(web, "db", n))
	}
	expect(t, dir, "web/db 9", "web/front 9", "web/db 8", "web/front 8", "web/db 7", "web/front 7", "api/one 100")

	for n := range 100 {
		s.Keep(crash(wire.DeploymentRef{Namespace: "many", Name: fmt.Sprint("d", n)}, "s", n))
	}
	if list := kept(t, dir); len(list) != 32 || list[0] != "d99/s 99" || list[31] != "d68/s 68" {
		t.Errorf("%d are kept: %v", len(list), list)
	}
	for n := range 40 {
		c := crash(wire.DeploymentRef{Namespace: "large", Name: fmt.Sprint("d", n)}, "s", n)
		c.Output = bytes.Repeat([]byte("x"), crashes.MaxOutput)
		s.Keep(c)
	}
	var size int64
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		info, infoErr := e.Info()
		err = errors.Join(err, infoErr)
		size += info.Size()
	}
	if err != nil || size > 2<<20 || size < 1<<20 {
		t.Errorf("%d bytes are kept: %v", size, err)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	s, dir, logged := open(t, nil)
	s.Forget(web) // there is nothing yet
	s.Keep(crash(web, "front", 1))
	s.Keep(crash(api, "one", 2))
	s.Keep(crash(web, "db", 3))
	s.Forget(web)
	expect(t, dir, "api/one 2")
	if logged.Len() > 0 {
		t.Error(logged)
	}
}

// A file that a power cut tore, or that is another's, is not taken for a crash, and keeps
// none from being kept.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	s, dir, _ := open(t, nil)
	for n := range 3 {
		s.Keep(crash(web, "front", n))
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d files: %v", len(entries), err)
	}
	torn, empty, of := filepath.Join(dir, entries[0].Name()), filepath.Join(dir, entries[1].Name()), entries[2].Name()
	other := strings.Replace(of, of[:1], map[bool]string{true: "1", false: "0"}[of[0] == '0'], 1)
	whole, err := os.ReadFile(filepath.Join(dir, of))
	for path, data := range map[string][]byte{torn: whole[:len(whole)/2], empty: nil, filepath.Join(dir, other): whole, filepath.Join(dir, "notes.txt"): whole} {
		err = errors.Join(err, os.WriteFile(path, data, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	expect(t, dir, "web/front 2")
	again := crashes.New(dir, nil, slog.New(slog.DiscardHandler)) // the agent starts anew
	for n := range 3 {
		again.Keep(crash(web, "front", 10+n))
	}
	expect(t, dir, "web/front 12", "web/front 11", "web/front 10")
	if _, err := os.Stat(filepath.Join(dir, "notes.txt")); err != nil {
		t.Errorf("a file of somebody else: %v", err)
	}
}

// On a full disk the older crashes stay, and the log is not filled either.
func TestAFullDisk(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("%v: mounting a small file system: %v", errors.ErrUnsupported, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	dir, logged := filepath.Join(mount, "crashes"), new(bytes.Buffer)
	s := crashes.New(dir, nil, slog.New(slog.NewTextHandler(logged, nil)))
	s.Keep(crash(web, "front", 1))
	fill := filepath.Join(mount, "fill")
	if err := os.WriteFile(fill, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	for n := range 5 {
		s.Keep(crash(web, "front", 2+n))
	}
	expect(t, dir, "web/front 1")
	if got := logged.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "no space left on device") || !strings.Contains(got, "shop/web/front") {
		t.Errorf("logged %q", got)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s.Keep(crash(web, "front", 9))
	expect(t, dir, "web/front 9", "web/front 1")
	entries, err := os.ReadDir(dir)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !strings.HasSuffix(e.Name(), ".json") }) {
		t.Errorf("left %v: %v", entries, err)
	}
}
