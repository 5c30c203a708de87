package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestGiveTreeStaysInside(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	const account = 4242
	dir, outside := t.TempDir(), t.TempDir()
	for _, path := range []string{filepath.Join(dir, "bodies", "sha256"), filepath.Join(outside, "shadow")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"directory": outside, "file": filepath.Join(outside, "shadow"), "up": ".."} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := giveTree(dir, account, account); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{
		dir: account, filepath.Join(dir, "bodies"): account, filepath.Join(dir, "bodies", "sha256"): account, filepath.Join(dir, "directory"): account,
		outside: 0, filepath.Join(outside, "shadow"): 0, filepath.Dir(dir): 0,
	} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != want || owner.Gid != want {
			t.Errorf("%s belongs to %d:%d, want %d", path, owner.Uid, owner.Gid, want)
		}
	}
}
