package datastore_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
)

func TestRowsAreWhatIsStoredNow(t *testing.T) {
	t.Parallel()
	d := open(t, t.TempDir())
	c := connect(t, d)
	for _, key := range []string{"/registry/a/1", "/registry/a/2", "/registry/a/3", "/registry/a0", "/registry/ab/1"} {
		create(t, c, key, "first")
	}
	if r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/a/2"), "=", revisionOf(t, c, "/registry/a/2"))).Then(clientv3.OpPut("/registry/a/2", "second")).Else(clientv3.OpGet("/registry/a/2")).Commit(); err != nil || !r.Succeeded {
		t.Fatal(err)
	}
	if r, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("/registry/a/3"), "=", revisionOf(t, c, "/registry/a/3"))).Then(clientv3.OpDelete("/registry/a/3")).Else(clientv3.OpGet("/registry/a/3")).Commit(); err != nil || !r.Succeeded {
		t.Fatal(err)
	}
	want := map[string]datastore.Row{}
	answer, err := c.Get(t.Context(), "/registry/a/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range answer.Kvs {
		want[string(kv.Key)] = datastore.Row{Key: string(kv.Key), Revision: kv.ModRevision, Value: kv.Value}
	}
	if len(want) != 2 {
		t.Fatalf("etcd's protocol says %v", want)
	}
	got := map[string]datastore.Row{}
	revision, err := d.Rows(t.Context(), "/registry/a/", func(r datastore.Row) error { got[r.Key] = r; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if revision != answer.Header.Revision {
		t.Errorf("the revision is %d, want %d", revision, answer.Header.Revision)
	}

	stop, calls := errors.New("stop"), 0
	if _, err := d.Rows(t.Context(), "/registry/a/", func(datastore.Row) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("after %d calls: %v", calls, err)
	}
	if _, err := d.Rows(t.Context(), "/registry/none/", func(datastore.Row) error { return stop }); err != nil {
		t.Errorf("nothing is stored: %v", err)
	}
}

func revisionOf(t *testing.T, c *clientv3.Client, key string) int64 {
	t.Helper()
	r, err := c.Get(t.Context(), key)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("reading %s: %v", key, err)
	}
	return r.Kvs[0].ModRevision
}
