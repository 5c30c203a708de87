package datastore_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	clientv3 "go.etcd.io/etcd/client/v3"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	megabyte = 1 << 20
	timeout  = 30 * time.Second
)

// update changes a key that has the revision before, and returns the new one.
func update(t testing.TB, c *clientv3.Client, key, value string, before int64) int64 {
	t.Helper()
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", before)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("changing %s: %v", key, err)
	}
	return r.Header.Revision
}

// remove deletes a key that has the revision before, the way the apiserver does.
func remove(t testing.TB, c *clientv3.Client, key string, before int64) int64 {
	t.Helper()
	r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", before)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || !r.Succeeded {
		t.Fatalf("deleting %s: %v", key, err)
	}
	return r.Header.Revision
}

func revision(t testing.TB, c *clientv3.Client, key string) int64 {
	t.Helper()
	r, err := c.Get(t.Context(), key)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("reading %s: %v", key, err)
	}
	return r.Kvs[0].ModRevision
}

// told returns so many events of a watch in words.
func told(t testing.TB, c *clientv3.Client, n int, key string, options ...clientv3.OpOption) (events []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for r := range c.Watch(ctx, key, append(options, clientv3.WithPrevKV())...) {
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			before := "nothing"
			if e.PrevKv != nil {
				before = string(e.PrevKv.Value)
			}
			events = append(events, fmt.Sprintf("%s %s=%s was %s", e.Type, e.Kv.Key, e.Kv.Value, before))
		}
		if len(events) >= n {
			return events
		}
	}
	t.Fatalf("the watch ended: %q", events)
	return nil
}

// A watch that comes back is told what happened in its range since, with what was
// there before each change.
func TestWatchesOfThePast(t *testing.T) {
	t.Parallel()
	c := connect(t, open(t, t.TempDir()))
	create(t, c, "/registry/a/1", "one")
	begin := revision(t, c, "/registry/a/1")
	create(t, c, "/registry/b/1", "other")
	second := update(t, c, "/registry/a/1", "two", begin)
	create(t, c, "/registry/a/2", "more")
	remove(t, c, "/registry/a/1", second)
	create(t, c, "/registry/a/1", "again")
	for name, tc := range map[string]struct {
		key     string
		options []clientv3.OpOption
		want    []string
	}{
		"of a prefix": {"/registry/a/", []clientv3.OpOption{clientv3.WithPrefix()}, []string{
			"PUT /registry/a/1=two was one", "PUT /registry/a/2=more was nothing", "DELETE /registry/a/1= was two", "PUT /registry/a/1=again was nothing",
		}},
		"of one": {"/registry/b/1", nil, []string{"PUT /registry/b/1=other was nothing"}},
		"of everything": {"\x00", []clientv3.OpOption{clientv3.WithFromKey()}, []string{
			"PUT /registry/b/1=other was nothing", "PUT /registry/a/1=two was one", "PUT /registry/a/2=more was nothing",
			"DELETE /registry/a/1= was two", "PUT /registry/a/1=again was nothing",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := told(t, c, len(tc.want), tc.key, append(slices.Clone(tc.options), clientv3.WithRev(begin+1))...)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// A watch of what seldom changes reads nothing of what else did. It is not parallel:
// it measures memory.
func TestWatchesReadTheirOwn(t *testing.T) {
	c := connect(t, open(t, t.TempDir()))
	create(t, c, "/registry/quiet/1", "old")
	begin := revision(t, c, "/registry/quiet/1")
	for i := range 40 {
		create(t, c, fmt.Sprintf("/registry/busy/%d", i), strings.Repeat("x", megabyte))
	}
	update(t, c, "/registry/quiet/1", "new", begin)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 5 {
		told(t, c, 1, "/registry/quiet/", clientv3.WithPrefix(), clientv3.WithRev(begin+1))
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 20*megabyte {
		t.Errorf("five watches took %d MB", n/megabyte)
	}
}

// The file has each value once, and what was replaced only for a time. What a
// compaction frees is given back.
func TestTheFileHasWhatIsLive(t *testing.T) {
	t.Parallel()
	const objects, writes, size = 10, 40, 50 << 10
	dir := t.TempDir()
	d, err := datastore.OpenCompacting(dir, 100*time.Millisecond, 10)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	c := connect(t, d)
	for i := range objects {
		key := fmt.Sprintf("/registry/test/%d", i)
		create(t, c, key, strings.Repeat("x", size))
		rev := revision(t, c, key)
		if i == 0 {
			told(t, c, 1, key, clientv3.WithRev(rev)) // compactions begin with the first watch
		}
		for range writes {
			rev = update(t, c, key, strings.Repeat("y", size), rev)
		}
	}
	const live, most = 3 * objects * size, 3*objects*size + 4*megabyte
	wait.For(t, "compacting", timeout, 50*time.Millisecond, func() error {
		if err := d.Shrink(t.Context()); err != nil {
			return err
		}
		sizes, err := d.FileSizes(t.Context())
		if err != nil {
			return err
		}
		if sizes.File > most || sizes.Live > live || sizes.Live == 0 || sizes.Log > 16*megabyte {
			return fmt.Errorf("%+v, want at most %d in a file of %d", sizes, live, most)
		}
		return nil
	})
}

// openedBefore fills a data directory as earlier versions did: each row has the
// value of before, and the file cannot become smaller.
func openedBefore(t *testing.T, dir string, objects, writes, size int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	_, backend, err := sqlite.New(ctx, &done, &drivers.Config{
		DataSourceName:  filepath.Join(dir, datastore.FileName) + "?_journal_mode=WAL&_kine_disable_startup_vacuum=1",
		CompactInterval: time.Hour, CompactMinRetain: 1, CompactBatchSize: 1000, CompactTimeout: timeout, PollBatchSize: 500, PollInterval: time.Second,
	})
	if err == nil {
		err = backend.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		key := fmt.Sprintf("/registry/test/%d", i)
		rev, err := backend.Create(ctx, key, []byte(strings.Repeat("x", size)), 0)
		for n := 0; n < writes && err == nil; n++ {
			rev, _, _, err = backend.Update(ctx, key, fmt.Appendf(nil, "%d%s", n, strings.Repeat("y", size)), rev, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnEarlierFileIsCompacted(t *testing.T) {
	t.Parallel()
	const objects, size = 50, 100 << 10
	dir := t.TempDir()
	path := filepath.Join(dir, datastore.FileName)
	openedBefore(t, dir, objects, 1, size)
	sqlOn(t, path, "UPDATE kine SET prev_revision = (SELECT MAX(id) FROM kine) - 1 WHERE name = 'compact_rev_key'",
		"DELETE FROM kine WHERE id IN (SELECT prev_revision FROM kine WHERE name != 'compact_rev_key')")
	before := sizeOf(t, path)
	if err := os.WriteFile(path+".compacting", []byte("what a power cut left"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir)
	c := connect(t, d)
	got, err := c.Get(t.Context(), "/registry/test/", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != objects {
		t.Fatalf("%d objects: %v", len(got.Kvs), err)
	}
	for _, kv := range got.Kvs {
		if string(kv.Value) != "0"+strings.Repeat("y", size) {
			t.Fatalf("%s is damaged", kv.Key)
		}
	}
	if after := sizeOf(t, path); after > objects*size*3/2 || before < objects*size*2 {
		t.Errorf("%d bytes of %d", after, before)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for i, kv := range got.Kvs[:objects/2] {
		remove(t, c, string(kv.Key), kv.ModRevision)
		if i == 0 {
			create(t, c, "/registry/test/new", "works")
		}
	}
	if _, err := os.Stat(path + ".compacting"); err == nil {
		t.Error("the copy is still there")
	}
}

// What is free in a file, whichever version made it, is given back.
func TestFreeSpaceIsGivenBack(t *testing.T) {
	t.Parallel()
	const objects, size = 20, megabyte
	for name, fill := range map[string]func(t *testing.T, dir string){
		"a new file":      func(*testing.T, string) {},
		"an earlier file": func(t *testing.T, dir string) { openedBefore(t, dir, 1, 0, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			fill(t, dir)
			d := open(t, dir)
			c := connect(t, d)
			for i := range objects {
				create(t, c, fmt.Sprintf("/registry/big/%d", i), strings.Repeat("x", size))
			}
			sqlOn(t, filepath.Join(dir, datastore.FileName), "DELETE FROM kine WHERE name LIKE '/registry/big/%'")
			if err := d.Shrink(t.Context()); err != nil {
				t.Fatal(err)
			}
			sizes, err := d.FileSizes(t.Context())
			if err != nil || sizes.File > 5*megabyte || sizes.Log > 9*megabyte {
				t.Errorf("%+v, %v", sizes, err)
			}
		})
	}
}

// A copy of a file that others have open, or that is damaged, is not taken: the
// server works with the file as it is.
func TestAFileInUseIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, datastore.FileName)
	openedBefore(t, dir, 10, 1, 1000)
	db, err := sql.Open(datastore.SQLDriver(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM kine").Scan(&n); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := datastore.Open(dir, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	after, err := os.Stat(path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced, %v", err)
	}
	if got, err := connect(t, d).Get(t.Context(), "/registry/test/", clientv3.WithPrefix()); err != nil || len(got.Kvs) != 10 {
		t.Errorf("%d objects, %v", len(got.Kvs), err)
	}
}

func sqlOn(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open(datastore.SQLDriver(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Keys that end, as events do, are deleted when their time is over, and cost one write each
// until then: to be told how long they last costs none.
func TestKeysEnd(t *testing.T) {
	t.Parallel()
	const keys = 10
	d, err := datastore.OpenCompacting(t.TempDir(), time.Hour, 1000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	c := connect(t, d)
	create(t, c, "/registry/events/lasting", "x")
	before := revision(t, c, "/registry/events/lasting")
	lease, err := c.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		key := fmt.Sprintf("/registry/events/%d", i)
		r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "x", clientv3.WithLease(lease.ID))).Commit()
		if err != nil || !r.Succeeded {
			t.Fatalf("creating %s: %v", key, err)
		}
		if last := int64(i + 1); r.Header.Revision != before+last {
			t.Errorf("%d keys took %d writes", last, r.Header.Revision-before)
		}
	}
	wait.For(t, "the end of keys", timeout, 10*time.Millisecond, func() error {
		r, err := c.Get(t.Context(), "/registry/events/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		if len(r.Kvs) != 1 || string(r.Kvs[0].Key) != "/registry/events/lasting" {
			return fmt.Errorf("%d keys are there", len(r.Kvs))
		}
		return nil
	})
}
