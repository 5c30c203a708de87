package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
)

const (
	// copySuffix is that of a copy which is not complete yet.
	copySuffix = ".compacting"
	// maxConverted is how much may be live in a file that is copied at the start of a
	// server: on a slow card that takes some ten seconds.
	maxConverted = 128 << 20
)

// prepare makes a new file one that can become smaller, and copies one of an older
// version into such a file, if that is quick and there is room. A copy that fails
// leaves the old file, with which the server works as well.
func prepare(ctx context.Context, path string, logger *slog.Logger) error {
	if err := os.Remove(path + copySuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing what an interrupted start left: %w", err)
	}
	if sizeOfFile(path) == 0 {
		return create(ctx, path)
	}
	copied, err := compact(ctx, path, logger)
	if err == nil && copied {
		err = replace(path)
	}
	if err != nil {
		logger.Warn("compacting the data store", "file", path, "error", err)
		return errors.Join(ctx.Err(), removeCopy(path))
	}
	if copied {
		logger.Info("the data store was compacted", "file", path, "bytes", sizeOfFile(path))
	}
	return nil
}

// openIncremental opens a database that gets, when it is written as a whole, the
// form that can become smaller.
func openIncremental(ctx context.Context, path string) (*sql.DB, error) {
	db, err := sql.Open(sqlDriver(), "file:"+path)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // which the pragmas are for
	if _, err := db.ExecContext(ctx, "PRAGMA busy_timeout=30000; PRAGMA auto_vacuum=INCREMENTAL"); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), db.Close())
	}
	return db, nil
}

func create(ctx context.Context, path string) error {
	db, err := openIncremental(ctx, path)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, "PRAGMA journal_mode=WAL")
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("creating %s: %w", path, err)
	}
	return nil
}

// compact copies what is live of an older file beside it, and reports whether it
// did.
func compact(ctx context.Context, path string, logger *slog.Logger) (copied bool, err error) {
	db, err := openIncremental(ctx, path)
	if err != nil {
		return false, err
	}
	p, err := readPages(ctx, db)
	if err != nil || p.incremental {
		return false, errors.Join(err, db.Close())
	}
	if p.live() > maxConverted || !hasRoom(filepath.Dir(path), 2*p.live()+reserve) {
		logger.Info("the data store keeps its size: it is too large to be compacted at a start, or the disk has no room for a copy",
			"file", path, "live_bytes", p.live(), "largest_bytes", maxConverted)
		return false, db.Close()
	}
	return true, errors.Join(copyLive(ctx, db, path), db.Close())
}

func copyLive(ctx context.Context, db *sql.DB, path string) error {
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = 'kine'").Scan(&tables); err != nil {
		return err
	}
	if tables > 0 { // a first start may have been cut short
		if _, err := db.ExecContext(ctx, forgetOldValues); err != nil {
			return err
		}
	}
	if err := makePrivate(path + copySuffix); err != nil {
		return err
	}
	_, err := db.ExecContext(ctx, "VACUUM INTO ?", path+copySuffix)
	return err
}

// forgetOldValues deletes what objects were before changes that nobody can ask for
// any more, see keepValuesOnce.
const forgetOldValues = `UPDATE kine SET old_value = NULL WHERE old_value IS NOT NULL
	AND id <= (SELECT MAX(prev_revision) FROM kine WHERE name = 'compact_rev_key')`

// replace puts the copy in the place of the file, in one step: a power cut leaves
// either.
func replace(path string) error {
	// The log of the old file would be taken for that of the new one. SQLite deletes
	// it when the last connection ends.
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s-wal is still there: another process has the data store open", path)
	}
	if err := syncFile(path + copySuffix); err != nil {
		return err
	}
	if err := os.Rename(path+copySuffix, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func removeCopy(path string) error {
	if err := os.Remove(path + copySuffix); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func hasRoom(dir string, bytes int64) bool {
	space, err := spaceOf(dir)
	return err == nil && space.Free >= bytes
}
