package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"
)

const (
	// upkeepInterval is how often the file is made smaller.
	upkeepInterval = time.Minute
	// spare is how much of the file may be free: what is written next takes it.
	spare = 4 << 20
	// spareShare is the part of what is live that may be free instead, if that is more.
	spareShare = 8
	// step is how many pages are given back at a time: writes wait meanwhile.
	step = 256
	// stepPause is what a slow medium has between steps for what others write.
	stepPause = 50 * time.Millisecond
	// maxLog is what SQLite's log is cut down to.
	maxLog = 8 << 20

	// upkeepPragmas: what the upkeep writes need not survive a power cut, as long as the
	// order is kept, which NORMAL does.
	upkeepPragmas = "PRAGMA busy_timeout=30000; PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=4194304"
)

// FileSizes are the sizes of the store in bytes.
type FileSizes struct {
	// File is the database, Live what of it is in use, Log what SQLite has written
	// beside it.
	File, Live, Log int64
}

// upkeep makes the file smaller when much of it is free.
type upkeep struct {
	db     *sql.DB
	path   string
	logger *slog.Logger
	stop   context.CancelFunc
}

func openUpkeep(path string, logger *slog.Logger) (*upkeep, error) {
	db, err := sql.Open(sqlDriver(), "file:"+path)
	if err != nil {
		return nil, fmt.Errorf("opening %s for upkeep: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(0) // a connection has a cache of its own
	return &upkeep{db: db, path: path, logger: logger}, nil
}

// run works until ctx ends.
func (u *upkeep) run(ctx context.Context) error {
	ticker := time.NewTicker(upkeepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := u.shrink(ctx); err != nil && ctx.Err() == nil {
			u.logger.Warn("giving back free space of the data store", "error", err)
		}
	}
}

// shrink gives back what is free, in short steps, and writes SQLite's log into the
// file, which is what makes the file smaller.
func (u *upkeep) shrink(ctx context.Context) error {
	conn, err := u.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, upkeepPragmas); err != nil {
		return err
	}
	for {
		p, err := readPages(ctx, conn)
		if err != nil {
			return err
		}
		if !p.incremental || p.free*p.size <= max(spare, p.live()/spareShare) {
			return u.writeLog(ctx, conn, p)
		}
		if err := giveBack(ctx, conn); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(stepPause):
		}
	}
}

// giveBack gives back some pages. SQLite gives back one for each row that is read.
func giveBack(ctx context.Context, conn *sql.Conn) error {
	rows, err := conn.QueryContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", step))
	if err != nil {
		return err
	}
	for rows.Next() {
	}
	return errors.Join(rows.Err(), rows.Close())
}

// writeLog writes the log into the file if either is longer than it has to be.
func (u *upkeep) writeLog(ctx context.Context, conn *sql.Conn, p pages) error {
	if sizeOfFile(u.path+"-wal") <= maxLog && sizeOfFile(u.path) <= p.all*p.size {
		return nil
	}
	_, err := conn.ExecContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)")
	return err
}

// pages is what the file has.
type pages struct {
	size, all, free int64
	// incremental: free ones can be given back in steps.
	incremental bool
}

func (p pages) live() int64 { return (p.all - p.free) * p.size }

// rows is a database or a connection to one.
type rows interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func readPages(ctx context.Context, db rows) (p pages, err error) {
	const query = "SELECT page_size, page_count, freelist_count, auto_vacuum = 2 FROM pragma_page_size(), pragma_page_count(), pragma_freelist_count(), pragma_auto_vacuum()"
	if err := db.QueryRowContext(ctx, query).Scan(&p.size, &p.all, &p.free, &p.incremental); err != nil {
		return pages{}, fmt.Errorf("reading the size of the data store: %w", err)
	}
	return p, nil
}

// sizes are those of now.
func (u *upkeep) sizes(ctx context.Context) (FileSizes, error) {
	p, err := readPages(ctx, u.db)
	return FileSizes{File: sizeOfFile(u.path), Live: p.live(), Log: sizeOfFile(u.path + "-wal")}, err
}

// sizeOfFile is 0 for one that is not there.
func sizeOfFile(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
