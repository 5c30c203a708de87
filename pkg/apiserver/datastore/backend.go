package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/query"
	"github.com/k3s-io/kine/pkg/server"
)

// history is how much of what was replaced is kept, for watches that come back and
// for lists in pages.
type history struct {
	// interval is how often what was replaced before the last time is deleted.
	interval time.Duration
	// retain is how many revisions are kept however old they are.
	retain int64
	// expiry is how long after a start expired keys are kept at least.
	expiry time.Duration
}

var ofServers = history{2 * time.Minute, 1000, 10 * time.Second}

// openKine opens the database, which exists, as a kine of ours: see statements, log
// and honest.
func openKine(ctx context.Context, done *sync.WaitGroup, path string, kept history, d *disk) (server.Backend, error) {
	config := &drivers.Config{
		Scheme:                "sqlite",
		DataSourceName:        path + dsnParams,
		ConnectionPoolConfig:  generic.ConnectionPoolConfig{MaxIdle: 2, MaxOpen: 5}, // one polls, one writes
		CompactInterval:       kept.interval,
		CompactIntervalJitter: 5,
		CompactTimeout:        5 * time.Second,
		CompactMinRetain:      kept.retain,
		CompactBatchSize:      1000,
		PollBatchSize:         500,
		PollInterval:          pollInterval,
	}
	_, dialect, err := sqlite.NewVariant(ctx, done, "sqlite3", config)
	if err != nil {
		return nil, err
	}
	keepValuesOnce(dialect)
	one, err := dialect.DB.PrepareContext(ctx, dialect.GetSingleValSQL.Query)
	if err != nil {
		return nil, err
	}
	careful := careful{dialect, newCommits(ctx, done, dialect, d.logger), one}
	backend := &honest{Backend: logstructured.New(log{sqllog.New(careful, done, config), kept.expiry}), full: d.check}
	return backend, backend.Start(ctx)
}

// keepValuesOnce makes kine read what an object was before a change from the row of
// before. Its own statements write it again with each change, which doubles the
// file and what a write costs. The row of before is there for as long as the change
// can be asked for: a compaction deletes rows that were replaced up to a revision,
// and changes up to that revision are refused. Rows of kine's own statements have
// an old_value.
func keepValuesOnce(d *generic.Generic) {
	const before = "COALESCE(old_value, (SELECT p.value FROM kine AS p WHERE p.id = kine.prev_revision))"
	after := func(name, where string) *query.Named {
		return query.New(fmt.Sprintf(`
			WITH
			ckv AS (SELECT * FROM (%s) AS current_rev, (%s) AS compact_rev),
			mkv AS (SELECT %s, %s FROM kine WHERE %s),
			fkv AS (SELECT * FROM mkv UNION ALL SELECT %s WHERE NOT EXISTS (SELECT * FROM mkv))
			SELECT * FROM ckv, fkv ORDER BY id ASC`,
			generic.CurrentRevSQL, generic.CompactRevSQL, generic.WithVal, before, where, generic.Nulls(generic.WithOldVal)), "?", false, name)
	}
	d.AfterAllOldValSQL = after("AfterAllOldVal", "id > ?")
	d.AfterOldValSQL = after("AfterOldVal", "name >= ? AND name < ? AND id > ?")
	d.AfterSingleOldValSQL = after("AfterSingleOldVal", "name = ? AND id > ?")
	d.InsertSQL = query.New(`
		INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value)
		WITH
		ikv AS (SELECT id, create_revision FROM kine WHERE id = ? AND deleted = 0)
		SELECT ?, ?, ?, (SELECT COALESCE(NULLIF(create_revision, 0), id) FROM ikv), ?, ?, ?
		WHERE COALESCE((SELECT MAX(id) FROM kine WHERE name = ?), 0) = ?`, "?", false, "Insert")
}

// log is kine's log of changes.
type log struct {
	*sqllog.SQLLog

	// expiry is that of history.
	expiry time.Duration
}

// Watch returns the changes to come. kine's log has none for a watch that begins while
// it stops, and its watch would then wait for one for ever.
func (l log) Watch(ctx context.Context) <-chan server.EventBatch {
	if changes := l.SQLLog.Watch(ctx); changes != nil {
		return changes
	}
	none := make(chan server.EventBatch)
	close(none)
	return none
}

// After reads the changes of what a watch is about. kine would read those of
// everything: a watch that begins five minutes ago would read the whole store with
// its history, and there is one for each informer and client every few minutes.
func (l log) After(ctx context.Context, key, end string, revision, limit int64) (server.EventBatch, error) {
	if r, ok := ctx.Value(watchRange{}).(watchRange); ok && key == "" {
		key, end = r.key, r.end
	}
	return l.SQLLog.After(ctx, key, end, revision, limit)
}

// List reads what is below a key, or everything, which kine does once, page by page, to
// find the keys that expire. That waits until the server is likely to have started: with
// ten thousand objects, it takes as much of the processor as half of what is needed then.
func (l log) List(ctx context.Context, key, end string, limit, revision int64, includeDeleted, keysOnly bool) (server.EventBatch, error) {
	if key == "" && revision == 0 {
		select {
		case <-time.After(l.expiry):
		case <-ctx.Done():
			return server.EventBatch{}, ctx.Err()
		}
	}
	return l.SQLLog.List(ctx, key, end, limit, revision, includeDeleted, keysOnly)
}

// Append adds a change, and leaves word of why it could not. kine takes any error
// for a conflict, and the API server would try again until the request ends.
func (l log) Append(ctx context.Context, e *server.Event) (int64, error) {
	rev, err := l.SQLLog.Append(ctx, e)
	if err != nil && !errors.Is(err, server.ErrKeyExists) {
		if failed, ok := ctx.Value(failure{}).(*failure); ok {
			failed.err = err
		}
	}
	return rev, err
}

// failure is why a change could not be added.
type failure struct{ err error }

// honest is a kine that says why a change could not be made.
type honest struct {
	server.Backend

	// full says whether, and how, the disk is full.
	full func() error
}

// Create implements server.Backend.
func (h *honest) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	ctx, failed := watchFailure(ctx)
	rev, err := h.Backend.Create(ctx, key, value, lease)
	return rev, h.why(failed, err)
}

// Update implements server.Backend.
func (h *honest) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	ctx, failed := watchFailure(ctx)
	rev, kv, ok, err := h.Backend.Update(ctx, key, value, revision, lease)
	return rev, kv, ok, h.why(failed, err)
}

// Delete implements server.Backend.
func (h *honest) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	ctx, failed := watchFailure(ctx)
	rev, kv, ok, err := h.Backend.Delete(ctx, key, revision)
	return rev, kv, ok, h.why(failed, err)
}

func watchFailure(ctx context.Context) (context.Context, *failure) {
	f := &failure{}
	return context.WithValue(ctx, failure{}, f), f
}

// why prefers the reason of a change that failed to what kine makes of it.
func (h *honest) why(f *failure, err error) error {
	if f.err == nil {
		return err
	}
	return explainWrite(f.err, h.full)
}

// careful is a dialect whose changes share flushes, and whose compactions do not end the
// process when they fail: at a full disk, they do.
type careful struct {
	*generic.Generic

	commits *commits
	// one reads one key: SQLite takes longer to parse the question than to answer it.
	one *sql.Stmt
}

// ListCurrent implements server.Dialect.
func (c careful) ListCurrent(ctx context.Context, key, end string, limit int64, includeDeleted, keysOnly bool) (*sql.Rows, error) {
	if key != "" && end == "" && !keysOnly {
		return c.one.QueryContext(ctx, key, includeDeleted)
	}
	return c.Generic.ListCurrent(ctx, key, end, limit, includeDeleted, keysOnly)
}

// BeginTx implements server.Dialect. kine's log begins one of this isolation for each
// change.
func (c careful) BeginTx(ctx context.Context, opts *sql.TxOptions) (server.Transaction, error) {
	if opts != nil && opts.Isolation == sql.LevelReadCommitted {
		return together{commits: c.commits}, nil
	}
	tx, err := c.Generic.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return carefulTx{tx}, nil
}

type carefulTx struct{ server.Transaction }

// Compact also commits: it is the last step of a transaction that kine then commits
// or ends the process.
func (t carefulTx) Compact(ctx context.Context, from, to int64) (int64, error) {
	n, err := t.Transaction.Compact(ctx, from, to)
	if err != nil {
		return n, err
	}
	return n, t.Commit()
}

// MustCommit implements server.Transaction. Compact has done it.
func (carefulTx) MustCommit() {}

// MustRollback implements server.Transaction. A transaction that cannot be rolled
// back is rolled back by SQLite already.
func (t carefulTx) MustRollback() { _ = t.Rollback() }
