package tombstone_test

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func stone(n int) tombstone.Entry {
	return tombstone.Entry{
		Fingerprint: wire.Sum([]byte{byte(n)}).String(), Device: fmt.Sprintf("edge-%d", n), Reason: "revoked", Time: time.Unix(int64(n), 0).UTC(),
	}
}

// reopen closes a list and opens its file again.
func reopen(t testing.TB, list *tombstone.List, path string) *tombstone.List {
	t.Helper()
	if list != nil {
		if err := list.Close(); err != nil {
			t.Fatal(err)
		}
	}
	list, err := tombstone.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = list.Close() }) // closed already, if it was opened again
	return list
}

// wants checks that the list has the stones from 0 to n, and no more.
func wants(t testing.TB, list *tombstone.List, n int) {
	t.Helper()
	for i := range n {
		if !list.Has(stone(i).Fingerprint) {
			t.Errorf("tombstone %d is lost", i)
		}
	}
	if list.Has(stone(n).Fingerprint) {
		t.Errorf("tombstone %d is there", n)
	}
}

func TestTombstonesStay(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revoked-keys.jsonl")
	list := reopen(t, nil, path)
	wants(t, list, 0)
	for i := range 3 {
		for range 2 { // the second time does nothing
			if err := list.Add(stone(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	wants(t, list, 3)
	list = reopen(t, list, path)
	wants(t, list, 3)
	if err := list.Add(stone(1)); err != nil {
		t.Fatal(err)
	}
	if err := list.Add(stone(3)); err != nil {
		t.Fatal(err)
	}
	wants(t, reopen(t, list, path), 4)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), "\n"); n != 4 {
		t.Errorf("the file has %d lines, want one for each key:\n%s", n, data)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", info.Mode())
	}
}

// A key that an operator revoked is not made into one that was renewed, or not accepted,
// by what comes later or was written by an earlier version. The operator may still
// change what its holder should do.
func TestTombstonesAreNotTakenBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revoked-keys.jsonl")
	list := reopen(t, nil, path)
	s := stone(1)
	add := func(reason string, r wire.Revocation) {
		t.Helper()
		s.Reason, s.Revocation = reason, r
		if err := list.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, want wire.Revocation, renewed bool) {
		t.Helper()
		for range 2 { // and after a restart
			r, has := list.Revocation(s.Fingerprint)
			if !has || r != want || list.Renewed(s.Fingerprint) != renewed {
				t.Errorf("%s: %q, %v, renewed %v", what, r, has, list.Renewed(s.Fingerprint))
			}
			list = reopen(t, list, path)
		}
	}
	add(tombstone.ReasonRenewed, "")
	want("renewed", "", true)
	add(tombstone.ReasonNotAccepted, "")
	want("not accepted", "", false)
	add(tombstone.ReasonRenewed, "")
	want("renewed afterwards", "", false)
	add("revoked", wire.RevocationWipe)
	want("revoked", wire.RevocationWipe, false)
	add(tombstone.ReasonRenewed, "")
	add(tombstone.ReasonNotAccepted, "")
	want("renewed and not accepted afterwards", wire.RevocationWipe, false)
	add("revoked", wire.RevocationKeep)
	want("when the operator changes it", wire.RevocationKeep, false)
	add("deleted", wire.RevocationWipe)
	want("when the operator changes it again", wire.RevocationWipe, false)

	line := fmt.Sprintf(`{"fingerprint":%q,"device":"edge-1","reason":"renewed","time":"2026-11-21T08:00:00Z"}`+"\n", s.Fingerprint)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(line); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	list = reopen(t, list, path)
	want("after what an earlier version wrote", wire.RevocationWipe, false)
}

func TestTombstonesFromManySides(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revoked-keys.jsonl")
	list := reopen(t, nil, path)
	var workers sync.WaitGroup
	for i := range 20 {
		workers.Go(func() {
			if err := list.Add(stone(i % 10)); err != nil || !list.Has(stone(i%10).Fingerprint) {
				t.Errorf("adding: %v", err)
			}
		})
	}
	workers.Wait()
	wants(t, reopen(t, list, path), 10)
}

func TestDamagedTombstones(t *testing.T) {
	t.Parallel()
	whole := func(n int) string {
		path := filepath.Join(t.TempDir(), "list")
		list := reopen(t, nil, path)
		for i := range n {
			if err := list.Add(stone(i)); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	two := whole(2)
	for name, tc := range map[string]struct {
		content string
		// left is how many are read; -1 if the file is refused.
		left int
	}{
		"empty":                       {"", 0},
		"cut in the last line":        {two[:len(two)-20], 1},
		"cut before the end of line":  {two[:len(two)-1], 1},
		"cut in the only line":        {two[:10], 0},
		"zeros after the end":         {two + "\x00\x00\x00", 2},
		"a line that is no document":  {"x\n" + two, -1},
		"an empty line":               {two + "\n", -1},
		"a line with half a document": {two[:50] + "\n" + two, -1},
		"no fingerprint":              {two + "{}\n", -1},
		"fingerprint of another form": {two + `{"fingerprint":"AB"}` + "\n", -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "revoked-keys.jsonl")
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if tc.left < 0 {
				list, err := tombstone.Open(path)
				if err == nil {
					_ = list.Close()
				}
				if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
					t.Errorf("error is %v, want one that names the file and what to do", err)
				}
				return
			}
			list := reopen(t, nil, path)
			wants(t, list, tc.left)
			// What follows is whole again.
			if err := list.Add(stone(tc.left)); err != nil {
				t.Fatal(err)
			}
			wants(t, reopen(t, list, path), tc.left+1)
		})
	}
}

// A disk that is full in the middle of a line must not leave a file that no
// later start can read. Not parallel: the limit is that of the process.
func TestTombstonesOnAFullDisk(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	path := filepath.Join(t.TempDir(), "revoked-keys.jsonl")
	list := reopen(t, nil, path)
	if err := list.Add(stone(0)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	long := stone(1)
	long.Reason = strings.Repeat("x", 1000)
	withFileLimit(t, uint64(info.Size())+900, func() {
		if err := list.Add(long); err == nil {
			t.Error("half a line counts as written")
		}
	})
	wants(t, list, 1)
	if err := list.Add(stone(1)); err != nil {
		t.Fatal(err)
	}
	wants(t, reopen(t, list, path), 2)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(data), "}\n") || strings.Contains(string(data), "xxx") {
		t.Errorf("something is left of the line that was not written:\n%s", data)
	}
}

// withFileLimit runs f while no file of the process can grow beyond a size.
func withFileLimit(t testing.TB, size uint64, f func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
