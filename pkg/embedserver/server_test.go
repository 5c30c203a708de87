package embedserver_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/embedserver"
)

func TestDataDirIsLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := embedserver.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := embedserver.Lock(dir); !errors.Is(err, embedserver.ErrInUse) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("error is %v, want ErrInUse that names %s and the flag", err, dir)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := embedserver.Lock(dir)
	if err != nil {
		t.Fatalf("the lock stays behind: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := embedserver.Lock(filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

// taken returns an address that somebody listens on.
func taken(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// A file that is damaged on an otherwise good disk is named, with what to do.
func TestStartWithDamagedFiles(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, content, says string }{
		"empty key of Secrets":   {"encryption.yaml", "", "restore %s from a backup"},
		"damaged key of Secrets": {"encryption.yaml", "garbage", "restore %s from a backup"},
		"cut key of Secrets":     {"encryption.yaml", "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- provi", "restore %s from a backup"},
		"bus is a file":          {"nats", "", "%s: not a directory: move what is there away"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, tc.file)
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			leftover := filepath.Join(dir, ".tmp-clock.json-1")
			if err := os.WriteFile(leftover, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			c := embedserver.Config{DataDir: dir, APIListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", EnrollListen: "127.0.0.1:0", Logger: logger(t)}
			err := embedserver.Run(t.Context(), c, func(embedserver.Ready) { t.Error("it is ready") })
			if says := fmt.Sprintf(tc.says, path); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %q, want one line that says %q", err, says)
			}
			if _, err := os.Stat(leftover); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what an interrupted write left is still there: %v", err)
			}
		})
	}
}

// What is wrong with the machine is said in one line, before anything is
// written that a second try would trip over.
func TestStartThatCannotSucceed(t *testing.T) {
	t.Parallel()
	const free = "127.0.0.1:0"
	config := func(t testing.TB) embedserver.Config {
		return embedserver.Config{DataDir: t.TempDir(), APIListen: free, NATSListen: free, EnrollListen: free, Logger: logger(t)}
	}
	for name, tc := range map[string]struct {
		prepare func(testing.TB, *embedserver.Config)
		is      error
		says    string
	}{
		"in use": {func(t testing.TB, c *embedserver.Config) {
			f, err := embedserver.Lock(c.DataDir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
		}, embedserver.ErrInUse, "--data-dir"},
		"a file": {func(t testing.TB, c *embedserver.Config) {
			c.DataDir = filepath.Join(c.DataDir, "file")
			if err := os.WriteFile(c.DataDir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "data directory"},
		"API port":        {func(t testing.TB, c *embedserver.Config) { c.APIListen = taken(t) }, nil, "--api-listen"},
		"enrollment port": {func(t testing.TB, c *embedserver.Config) { c.EnrollListen = taken(t) }, nil, "--enroll-listen"},
		"lost authorities": {func(t testing.TB, c *embedserver.Config) {
			if err := os.WriteFile(filepath.Join(c.DataDir, "state.db"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "pki does not exist: restore it from a backup"},
		"damaged list of keys": {func(t testing.TB, c *embedserver.Config) {
			if err := os.WriteFile(filepath.Join(c.DataDir, "revoked-keys.jsonl"), []byte("x\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "revoked-keys.jsonl"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config(t)
			tc.prepare(t, &c)
			err := embedserver.Run(t.Context(), c, func(embedserver.Ready) { t.Error("it is ready") })
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %q, want one line that says %q", err, tc.says)
			}
			if info, err := os.Stat(filepath.Join(c.DataDir, "state.db")); err == nil && info.Size() > 0 {
				t.Error("it made a database")
			}
			if tc.is == nil && name != "a file" {
				f, err := embedserver.Lock(c.DataDir)
				if err != nil {
					t.Fatalf("the lock stays behind: %v", err)
				}
				_ = f.Close()
			}
		})
	}
}

func TestStartThatIsCalledOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := embedserver.Config{DataDir: t.TempDir(), APIListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", EnrollListen: "127.0.0.1:0", Logger: logger(t)}
	if err := embedserver.Run(ctx, c, func(embedserver.Ready) { t.Error("it is ready") }); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
