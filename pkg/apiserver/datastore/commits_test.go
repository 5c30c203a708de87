package datastore_test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/test/wait"
)

// whileLocked calls f while nobody else can commit.
func whileLocked(t *testing.T, path string, f func()) {
	t.Helper()
	db, err := sql.Open(datastore.SQLDriver(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range []string{"PRAGMA busy_timeout=30000", "BEGIN IMMEDIATE"} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	f()
	if _, err := db.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
}

// waitFor returns when so many changes wait, of all data stores of the process: tests
// that call it are not parallel.
func waitFor(t *testing.T, changes int) {
	t.Helper()
	wait.For(t, "changes that wait", timeout, 10*time.Millisecond, func() error {
		stacks := make([]byte, 4*megabyte)
		n := strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "datastore.(*commits).add(")
		if n < changes {
			return fmt.Errorf("%d of %d wait", n, changes)
		}
		return nil
	})
}

// commitsIn counts the commits in SQLite's log: the frames that say how large the
// database is after them, since the log last began anew.
func commitsIn(t *testing.T, path string) (n int) {
	t.Helper()
	const header, frameHeader, page = 32, 24, 4096
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	salts := string(log[16:24])
	for f := log[header:]; len(f) >= frameHeader+page && string(f[8:16]) == salts; f = f[frameHeader+page:] {
		if binary.BigEndian.Uint32(f[4:]) != 0 {
			n++
		}
	}
	return n
}

// put creates a key, and says whether it was there.
func put(ctx context.Context, c *clientv3.Client, key, value string) (created bool, err error) {
	r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	return err == nil && r.Succeeded, err
}

// Changes that come while the medium is busy last together, each with a revision of its
// own, and a conflict is that of one.
func TestChangesShareACommit(t *testing.T) {
	const writers = 30
	dir := t.TempDir()
	path := filepath.Join(dir, datastore.FileName)
	c := connect(t, open(t, dir))
	create(t, c, "/registry/test/first", "x")
	before := commitsIn(t, path)
	var created atomic.Int64
	var done sync.WaitGroup
	whileLocked(t, path, func() {
		for i := range writers {
			done.Go(func() {
				ok, err := put(t.Context(), c, fmt.Sprintf("/registry/test/%d", i/2), "x")
				if err != nil {
					t.Errorf("write %d: %v", i, err)
				}
				if ok {
					created.Add(1)
				}
			})
		}
		waitFor(t, writers)
	})
	done.Wait()
	if n := created.Load(); n != writers/2 {
		t.Errorf("%d writes created %d keys", n, writers/2)
	}
	if n := commitsIn(t, path) - before; n == 0 || n > writers/3 {
		t.Errorf("%d writes took %d commits", writers, n)
	}
	got, err := c.Get(t.Context(), "/registry/test/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != writers/2+1 {
		t.Fatalf("%d keys: %v", len(got.Kvs), err)
	}
	revisions := map[int64]bool{}
	for _, kv := range got.Kvs {
		revisions[kv.ModRevision] = true
	}
	if len(revisions) != len(got.Kvs) {
		t.Errorf("%d keys have %d revisions", len(got.Kvs), len(revisions))
	}
}

// A row that SQLite refuses keeps no other one from being written.
func TestARefusedChangeIsAlone(t *testing.T) {
	const writers = 20
	dir := t.TempDir()
	path := filepath.Join(dir, datastore.FileName)
	c := connect(t, open(t, dir))
	sqlOn(t, path, "CREATE TRIGGER refuse BEFORE INSERT ON kine WHEN CAST(NEW.value AS TEXT) = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'the disk is full'); END")
	var done sync.WaitGroup
	var refused atomic.Int64
	whileLocked(t, path, func() {
		for i := range writers {
			value := "good"
			if i%5 == 0 {
				value = "bad"
			}
			done.Go(func() {
				ok, err := put(t.Context(), c, fmt.Sprintf("/registry/test/%d", i), value)
				switch {
				case value == "bad" && err != nil && strings.Contains(err.Error(), "disk is full"):
					refused.Add(1)
				case value == "bad" || !ok:
					t.Errorf("write %d of %q: created: %v: %v", i, value, ok, err)
				}
			})
		}
		waitFor(t, writers)
	})
	done.Wait()
	got, err := c.Get(t.Context(), "/registry/test/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || got.Count != writers*4/5 || refused.Load() != writers/5 {
		t.Errorf("%d are written and %d refused, want %d and %d: %v", got.Count, refused.Load(), writers*4/5, writers/5, err)
	}
}

// A change that nobody waits for any more is not written.
func TestAnAbandonedChangeIsNotWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, datastore.FileName)
	c := connect(t, open(t, dir))
	create(t, c, "/registry/test/first", "x")
	var waiting sync.WaitGroup
	whileLocked(t, path, func() {
		waiting.Go(func() { create(t, c, "/registry/test/holds", "x") }) // until SQLite's lock is free
		waitFor(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if ok, err := put(ctx, c, "/registry/test/abandoned", "x"); ok || err == nil {
			t.Error("a write is acknowledged that cannot be committed")
		}
	})
	waiting.Wait()
	create(t, c, "/registry/test/last", "x") // after everything that waits
	wait.For(t, "the writes", timeout, 10*time.Millisecond, func() error {
		got, err := c.Get(t.Context(), "/registry/test/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		var keys []string
		for _, kv := range got.Kvs {
			keys = append(keys, strings.TrimPrefix(string(kv.Key), "/registry/test/"))
		}
		if s := strings.Join(keys, " "); s != "first holds last" {
			return fmt.Errorf("there are %s", s)
		}
		return nil
	})
}
