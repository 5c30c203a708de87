package datastore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/logging/capture"
)

func TestMain(m *testing.M) {
	capture.Install(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, dir string) *datastore.Datastore {
	t.Helper()
	d, err := datastore.Open(dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// connect returns a client that speaks as the apiserver does.
func connect(t testing.TB, d *datastore.Datastore) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{d.Endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// create writes a key that must not exist, the way the apiserver does.
func create(t testing.TB, c *clientv3.Client, key, value string) {
	t.Helper()
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("creating %s: %v", key, err)
	}
}

func TestAcknowledgedDataOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	c := connect(t, first)
	const keys = 100
	for i := range keys {
		create(t, c, fmt.Sprintf("/registry/test/%03d", i), "value")
	}
	before, err := c.Get(t.Context(), "/registry/test/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	first.Close() // twice is fine

	after, err := connect(t, open(t, dir)).Get(t.Context(), "/registry/test/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Kvs) != keys || after.Header.Revision < before.Header.Revision {
		t.Errorf("%d of %d keys, revision %d after %d", len(after.Kvs), keys, after.Header.Revision, before.Header.Revision)
	}
}

// After a stop everything is in one file, as whoever copies or restores state.db
// alone expects.
func TestAStopLeavesOneFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := datastore.Open(dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, d)
	create(t, c, "/registry/a", "kept")
	if _, err := d.Sizes(t.Context(), "/registry/"); err != nil {
		t.Fatal(err)
	}
	d.Close()
	if info, err := os.Stat(filepath.Join(dir, datastore.FileName+"-wal")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a log of %v (%v)", info, err)
	}
	alone := t.TempDir()
	data, err := os.ReadFile(filepath.Join(dir, datastore.FileName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(alone, datastore.FileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := connect(t, open(t, alone)).Get(t.Context(), "/registry/a")
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("the copy has %v: %v", got, err)
	}
}

func TestSocketIsForTheServerOnly(t *testing.T) {
	t.Parallel()
	d := open(t, t.TempDir())
	info, err := os.Stat(strings.TrimPrefix(d.Endpoint, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("mode is %v", info.Mode())
	}
}

func TestLongPathIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := datastore.Open(dir, nil, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("error is %v, want one that names the path and what to do", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("it left %v", entries)
	}
}

func TestDamagedDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := open(t, dir)
	c := connect(t, d)
	for i := range 200 {
		create(t, c, fmt.Sprintf("/registry/test/%d", i), strings.Repeat("x", 200))
	}
	d.Close()
	good, err := os.ReadFile(filepath.Join(dir, datastore.FileName))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"text":            []byte("this is no database, but it is long enough to be one, if only somebody believed it"),
		"short":           []byte("SQLite"),
		"zeros":           make([]byte, 8192),
		"a wrong header":  append([]byte("SQLite format 2\x00"), good[16:]...),
		"zeroed schema":   append(append(bytes.Clone(good[:100]), make([]byte, 3996)...), good[4096:]...),
		"half of a file":  good[:len(good)/2/4096*4096],
		"zeros after one": append(bytes.Clone(good[:4096]), make([]byte, len(good)-4096)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, datastore.FileName)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() {
				d, err := datastore.Open(dir, nil, slog.New(slog.DiscardHandler))
				if err == nil {
					d.Close()
				}
				done <- err
			}()
			select {
			case err = <-done:
			case <-ctx.Done():
				t.Fatal("it is still trying")
			}
			if !errors.Is(err, datastore.ErrDamaged) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
				t.Errorf("error is %v, want ErrDamaged that names the file and what to do", err)
			}
			if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, content) {
				t.Error("the damaged file was changed: it may still be rescued")
			}
		})
	}
}

func TestDatabaseIsPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, datastore.FileName)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := datastore.Open(dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s%s: %v, %v", datastore.FileName, suffix, info.Mode(), err)
		}
	}
}
