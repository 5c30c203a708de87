package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// numbered is a manifest whose version says which one it is.
func numbered(seq uint64) *wire.Manifest {
	ref := wire.DeploymentRef{Namespace: "shop", Name: "web"}
	m := manifest(wire.Entry{DeploymentRef: ref, Type: "PodmanV0", Hash: strings.Repeat("0", 64), Size: 1})
	m.Seq = seq
	return m
}

// twice returns a store whose second manifest is on the disk, and the file that has it.
func twice(t testing.TB) (s *store.Store, log *bytes.Buffer, path string) {
	t.Helper()
	s, log = open(t)
	for seq := range uint64(2) {
		if err := s.SaveManifest(numbered(seq + 1)); err != nil {
			t.Fatal(err)
		}
	}
	return s, log, filepath.Join(s.Dir(), "manifest.json")
}

// damages calls try for every truncation of data, every flip of one of its bits, and
// every run of zeroes that a lost block leaves.
func damages(data []byte, try func(damaged []byte)) {
	for n := range data {
		try(bytes.Clone(data[:n]))
		for bit := range 8 {
			flipped := bytes.Clone(data)
			flipped[n] ^= 1 << bit
			try(flipped)
		}
		zeroed := bytes.Clone(data)
		clear(zeroed[n:])
		try(zeroed)
	}
}

// Whatever happens to the file of the last manifest, the agent goes on with the one
// before, and the log names the file.
func TestDamagedManifestFallsBack(t *testing.T) {
	t.Parallel()
	s, log, path := twice(t)
	whole := content(t, path)
	damages(whole, func(damaged []byte) {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		got, intact := s.Manifest()
		if diff := cmp.Diff(numbered(1), got); diff != "" || intact || !strings.Contains(log.String(), "file=manifest.json") {
			t.Fatalf("%q: intact %t, log %s: %s", damaged, intact, log, diff)
		}
	})
	// Without a checksum, many a flip would be taken for a manifest.
	var taken int
	damages(unsealed(t, whole), func(damaged []byte) {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, intact := s.Manifest(); intact && !cmp.Equal(numbered(2), got) {
			taken++
		}
	})
	if taken == 0 {
		t.Error("the checksum is of no use: nothing that is damaged was taken for whole without it")
	}
}

// unsealed is what an earlier agent would have written.
func unsealed(t testing.TB, data []byte) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	delete(doc, "checksum")
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// An earlier agent's files are read, and it reads ours.
func TestUnsealedDocuments(t *testing.T) {
	t.Parallel()
	s, _, path := twice(t)
	var earlier wire.Manifest
	if err := json.Unmarshal(content(t, path), &earlier); err != nil || !cmp.Equal(numbered(2), &earlier) {
		t.Errorf("an earlier agent reads %+v: %v", earlier, err)
	}
	if err := os.WriteFile(path, append(unsealed(t, content(t, path)), '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, intact := s.Manifest(); !intact || !cmp.Equal(numbered(2), got) {
		t.Errorf("of an earlier agent's: %+v, intact %t", got, intact)
	}
	if err := s.SaveManifest(numbered(3)); err != nil {
		t.Fatal(err)
	}
	if got := s.PreviousManifest(); !cmp.Equal(numbered(2), got) {
		t.Errorf("an earlier agent's manifest is not the previous one: %+v", got)
	}
}

// A damaged manifest never takes the place of the previous one.
func TestDamageIsNotKept(t *testing.T) {
	t.Parallel()
	s, _, path := twice(t)
	whole := content(t, path)
	for at := 1; at < len(whole); at += 23 { // in the checksum's name, in it, and after it
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveManifest(numbered(3)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(numbered(1), s.PreviousManifest()); diff != "" {
			t.Fatalf("flipped at %d: %s", at, diff)
		}
	}
}

func TestLostManifest(t *testing.T) {
	t.Parallel()
	s, _, path := twice(t)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got, intact := s.Manifest(); intact || !cmp.Equal(numbered(1), got) {
		t.Errorf("without the file: %+v, intact %t", got, intact)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "previous-manifest.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, intact := s.Manifest(); got != nil || intact {
		t.Errorf("with nothing that is whole: %+v, intact %t", got, intact)
	}
}

func TestDamagedMemoryFallsBack(t *testing.T) {
	t.Parallel()
	s, log := open(t)
	memory := func(n int) store.Memory {
		ref := wire.DeploymentRef{Namespace: "shop", Name: "web"}
		return store.Memory{Manifest: numbered(uint64(n)).Version, Deployments: []store.Remembered{{DeploymentRef: ref, Applied: strings.Repeat("0", 64)}}}
	}
	for n := range 2 {
		if err := s.SaveMemory(memory(n)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(s.Dir(), "memory.json")
	damages(content(t, path), func(damaged []byte) {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		if diff := cmp.Diff(memory(0), s.Memory()); diff != "" || !strings.Contains(log.String(), "memory.json") {
			t.Fatalf("%q: log %s: %s", damaged, log, diff)
		}
	})
}

// content is what a file holds, which only the agent may read.
func content(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Fatalf("%s: %v, %v", path, info, err)
	}
	return data
}

// A damaged identity is replaced by its copy when the agent starts; to be enrolled again
// would take an operator and a way to the server.
func TestDamagedIdentityIsReplacedByItsCopy(t *testing.T) {
	t.Parallel()
	s, log := open(t)
	want := &store.Identity{Device: "d", Key: "key", Certificate: "certificate"}
	if err := s.SaveIdentity(want); err != nil {
		t.Fatal(err)
	}
	restart := func() {
		t.Helper()
		if err := errors.Join(s.Lock(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	restart() // the copy is made
	path := filepath.Join(s.Dir(), "identity.json")
	whole := content(t, path)
	for _, data := range [][]byte{nil, make([]byte, len(whole)), whole[:len(whole)/2]} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		log.Reset()
		got, err := s.Identity()
		if diff := cmp.Diff(want, got); diff != "" || err != nil || !strings.Contains(log.String(), "identity.json") {
			t.Fatalf("%q: %v, log %s: %s", data, err, log, diff)
		}
		restart()
		if diff := cmp.Diff(string(whole), string(content(t, path))); diff != "" {
			t.Fatalf("it was not written again: %s", diff)
		}
	}
	next := &store.Identity{Device: "e", Key: "other", Certificate: want.Certificate}
	if err := s.SaveIdentity(next); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Identity(); err == nil {
		t.Errorf("the copy of an earlier identity was used: %+v", got)
	}
}
