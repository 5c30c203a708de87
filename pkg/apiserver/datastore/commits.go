package datastore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/server"
)

const (
	// togetherRows and togetherBytes are how much is written with one flush at most:
	// whoever comes meanwhile waits for all of it.
	togetherRows, togetherBytes = 64, 4 << 20
	// slowCommit is how long a commit takes that the log tells of.
	slowCommit = time.Second
)

// commits adds rows for all who write. What comes while the medium flushes is written
// together, with one more flush: a card that takes 10 ms for each does not keep writes
// to a hundred a second, and none sleeps until SQLite's lock is free by chance. A row
// is acknowledged when the transaction that it is in has been flushed.
type commits struct {
	dialect *generic.Generic
	logger  *slog.Logger
	queue   chan *row
	stopped chan struct{}

	// conn and insert are of the goroutine that writes, nil before it needs them and
	// after they failed.
	conn   *sql.Conn
	insert *sql.Stmt
}

// row is a change of a key.
type row struct {
	key              string
	created, deleted bool
	previous, lease  int64
	value            []byte
	// gone ends when nobody waits for the row any more: it is not written then, if that
	// has not begun.
	gone <-chan struct{}

	// revision and err are set when written is closed. The revision is 0 if the key has
	// changed meanwhile.
	written  chan struct{}
	revision int64
	err      error
}

func newCommits(ctx context.Context, done *sync.WaitGroup, dialect *generic.Generic, logger *slog.Logger) *commits {
	c := &commits{dialect: dialect, logger: logger, queue: make(chan *row), stopped: make(chan struct{})}
	done.Go(func() { c.run(ctx) })
	return c
}

// run writes until ctx ends.
func (c *commits) run(ctx context.Context) {
	defer close(c.stopped)
	defer c.forget()
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-c.queue:
			c.write(c.gather(first))
		}
	}
}

// add writes a row and returns its revision. It does not return before the row is on
// the medium, or is known not to be.
func (c *commits) add(ctx context.Context, r *row) (int64, error) {
	r.gone, r.written = ctx.Done(), make(chan struct{})
	select {
	case c.queue <- r:
		<-r.written
		return r.revision, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-c.stopped:
		return 0, sql.ErrConnDone
	}
}

// gather takes what waits.
func (c *commits) gather(first *row) []*row {
	rows, bytes := []*row{first}, len(first.value)
	for len(rows) < togetherRows && bytes < togetherBytes {
		select {
		case r := <-c.queue:
			rows, bytes = append(rows, r), bytes+len(r.value)
		default:
			return rows
		}
	}
	return rows
}

// write writes rows together. If that fails for another reason than a conflict, which
// concerns one row only, each is tried alone: a row that the disk has no room for keeps
// none from being written that it has room for.
func (c *commits) write(rows []*row) {
	began := time.Now()
	rows = waitedFor(rows)
	err := c.commit(rows)
	if _, is := errors.AsType[badRow](err); is && len(rows) > 1 {
		for _, r := range rows {
			r.err = c.commit([]*row{r})
		}
		err = nil
	}
	if took := time.Since(began); took >= slowCommit {
		c.logger.Warn("the data store is slow", "seconds", took.Seconds(), "changes", len(rows))
	}
	for _, r := range rows {
		if r.err == nil {
			r.err = err
		}
		if r.err != nil {
			r.revision = 0
		}
		close(r.written)
	}
}

// waitedFor leaves out those that nobody waits for.
func waitedFor(rows []*row) []*row {
	kept := rows[:0]
	for _, r := range rows {
		select {
		case <-r.gone:
			r.err = context.Canceled
			close(r.written)
		default:
			kept = append(kept, r)
		}
	}
	return kept
}

// badRow is why a row could not be added, for another reason than a conflict.
type badRow struct{ error }

// Unwrap is for package errors.
func (b badRow) Unwrap() error { return b.error }

// commit writes rows in one transaction. Its error is about all of them; that of a row
// is about a conflict.
func (c *commits) commit(rows []*row) error {
	if len(rows) == 0 {
		return nil
	}
	if err := c.connect(); err != nil {
		return err
	}
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		c.forget()
		return err
	}
	for _, r := range rows {
		if err := c.put(r); err != nil {
			c.rollBack()
			return badRow{err}
		}
	}
	err := c.exec("COMMIT")
	if err != nil {
		c.rollBack()
	}
	return err
}

// put adds a row to the transaction. A conflict undoes that row alone.
func (c *commits) put(r *row) error {
	r.revision, r.err = 0, nil
	result, err := c.insert.ExecContext(context.Background(), r.previous, r.key, r.created, r.deleted, r.previous, r.lease, r.value, r.key, r.previous)
	if err != nil {
		if err = c.dialect.TranslateErr(err); errors.Is(err, server.ErrKeyExists) {
			r.err, err = err, nil
		}
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return err
	}
	r.revision, err = result.LastInsertId()
	return err
}

// connect takes a connection of its own. Statements get no context: one that ends
// would cost a goroutine for each, and what was begun is to be finished.
func (c *commits) connect() (err error) {
	if c.conn != nil {
		return nil
	}
	if c.conn, err = c.dialect.DB.Conn(context.Background()); err != nil {
		c.conn = nil
		return err
	}
	if c.insert, err = c.conn.PrepareContext(context.Background(), c.dialect.InsertSQL.Query); err != nil {
		c.forget()
	}
	return err
}

func (c *commits) exec(statement string) error {
	_, err := c.conn.ExecContext(context.Background(), statement)
	return err
}

// rollBack undoes the transaction, if SQLite has not done so by itself.
func (c *commits) rollBack() {
	if err := c.exec("ROLLBACK"); err != nil {
		c.forget()
	}
}

// forget closes the connection: it may be in a transaction, and must not go to anybody
// else.
func (c *commits) forget() {
	if c.insert != nil {
		_ = c.insert.Close()
	}
	if c.conn != nil {
		_ = c.conn.Raw(func(any) error { return driver.ErrBadConn })
		_ = c.conn.Close()
	}
	c.conn, c.insert = nil, nil
}

// together is a transaction for one row, which is written with those of others.
type together struct {
	server.Transaction

	commits *commits
}

// Insert implements server.Transaction. It also commits.
func (t together) Insert(ctx context.Context, key string, created, deleted bool, previous, ttl int64, value []byte) (int64, error) {
	return t.commits.add(ctx, &row{key: key, created: created, deleted: deleted, previous: previous, lease: ttl, value: value})
}

// Commit implements server.Transaction. Insert has done it.
func (together) Commit() error { return nil }

// Rollback implements server.Transaction. Nothing is left of a row that Insert failed
// to add.
func (together) Rollback() error { return nil }
