package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) (*store.Store, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	s, err := store.Open(filepath.Join(t.TempDir(), "state"), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s, &log
}

func manifest(entries ...wire.Entry) *wire.Manifest {
	return &wire.Manifest{Version: wire.Version{Epoch: "e1", Term: 1, Seq: 1}, Complete: true, Entries: entries}
}

func TestManifestRoundTrip(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	if got, intact := s.Manifest(); got != nil || !intact {
		t.Fatalf("a new store has manifest %v, intact %t", got, intact)
	}
	want := manifest(wire.Entry{DeploymentRef: wire.DeploymentRef{Namespace: "a", Name: "b"}, Type: "PodmanV0", Hash: strings.Repeat("0", 64), Size: 1})
	if err := s.SaveManifest(want); err != nil {
		t.Fatal(err)
	}
	got, intact := s.Manifest()
	if diff := cmp.Diff(want, got); diff != "" || !intact {
		t.Error(intact, diff)
	}
}

func TestDamagedDocumentsCountAsAbsent(t *testing.T) {
	t.Parallel()
	damage := map[string][]byte{
		"empty":    {},
		"zeroes":   make([]byte, 512),
		"cut":      []byte(`{"epoch":"e1","term":1,`),
		"foreign":  []byte(`[]`),
		"too long": bytes.Repeat([]byte(" "), 2<<20),
	}
	for name, content := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, log := open(t)
			for _, file := range []string{"manifest.json", "memory.json"} {
				if err := os.WriteFile(filepath.Join(s.Dir(), file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if m, intact := s.Manifest(); m != nil || intact {
				t.Errorf("manifest %v was read, intact %t", m, intact)
			}
			if diff := cmp.Diff(store.Memory{}, s.Memory()); diff != "" {
				t.Error(diff)
			}
			for _, file := range []string{"manifest.json", "memory.json"} {
				if !strings.Contains(log.String(), file) {
					t.Errorf("the log does not name %s: %s", file, log)
				}
			}
		})
	}
}

func TestDamagedIdentityIsAnError(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	if _, err := s.Identity(); !errors.Is(err, store.ErrNoIdentity) {
		t.Errorf("a new store: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "identity.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Identity(); !errors.Is(err, store.ErrNoIdentity) || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("an empty file: %v", err)
	}
}

func TestIdentityIsPrivate(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	want := &store.Identity{Device: "d", Key: "secret"}
	if err := s.SaveIdentity(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for path, mode := range map[string]fs.FileMode{".": 0o700, "identity.json": 0o600} {
		info, err := os.Stat(filepath.Join(s.Dir(), path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), mode)
		}
	}
}

func TestBodiesAreVerified(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	body := []byte(`{"type":"PodmanV0","data":{}}`)
	hash := wire.Sum(body).String()
	if err := s.SaveBody(strings.Repeat("0", 64), body); !errors.Is(err, store.ErrHash) {
		t.Errorf("a body under another hash: %v", err)
	}
	if err := s.SaveBody(hash, body); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(body, s.Body(hash)); diff != "" {
		t.Error(diff)
	}
	path := filepath.Join(s.Dir(), "bodies", hash)
	if err := os.WriteFile(path, body[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.Body(hash); got != nil {
		t.Errorf("a damaged body was returned: %s", got)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the damaged body is still there: %v", err)
	}
}

func TestBodyNamesCannotLeaveTheDirectory(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	if err := s.SaveIdentity(&store.Identity{Device: "d"}); err != nil {
		t.Fatal(err)
	}
	if got := s.Body("../identity.json"); got != nil {
		t.Errorf("got %s", got)
	}
}

func TestCollectKeepsWhatIsNamed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s, _ := open(t)
		keep := map[string]bool{}
		bodies := rapid.SliceOfNDistinct(rapid.SliceOfN(rapid.Byte(), 1, 8), 0, 6, func(b []byte) string { return string(b) }).Draw(rt, "bodies")
		for _, body := range bodies {
			hash := wire.Sum(body).String()
			if err := s.SaveBody(hash, body); err != nil {
				rt.Fatal(err)
			}
			keep[hash] = rapid.Bool().Draw(rt, "keep")
		}
		if err := s.CollectBodies(keep); err != nil {
			rt.Fatal(err)
		}
		for hash, kept := range keep {
			if got := s.Body(hash) != nil; got != kept {
				rt.Fatalf("%s: there is %t, want %t", hash, got, kept)
			}
		}
	})
}

func TestLockKeepsASecondAgentOut(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	var leftovers []string
	for _, dir := range []string{".", "bodies", "secrets"} {
		if err := os.MkdirAll(filepath.Join(s.Dir(), dir), 0o700); err != nil {
			t.Fatal(err)
		}
		leftover := filepath.Join(s.Dir(), dir, ".tmp-123")
		if err := os.WriteFile(leftover, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		leftovers = append(leftovers, leftover)
	}
	if err := s.Lock(); err != nil {
		t.Fatal(err)
	}
	for _, leftover := range leftovers {
		if _, err := os.Stat(leftover); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a leftover is still there: %v", err)
		}
	}
	second, err := store.Open(s.Dir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Lock(); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("the second lock: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := second.Lock(); err != nil {
		t.Errorf("after the first agent ended: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestMemoryForgetsMalformedItems(t *testing.T) {
	t.Parallel()
	s, _ := open(t)
	content := `{"deployments":[{"namespace":"a","name":"../x"},{"namespace":"b","name":"ok"},{"namespace":"a","name":"ok","applied":"zz"}]}`
	if err := os.WriteFile(filepath.Join(s.Dir(), "memory.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	want := store.Memory{Deployments: []store.Remembered{{DeploymentRef: wire.DeploymentRef{Namespace: "b", Name: "ok"}}}}
	if diff := cmp.Diff(want, s.Memory()); diff != "" {
		t.Error(diff)
	}
}
