package datastore

import (
	"context"
	"database/sql"
	"fmt"
)

// Row is an object as it is stored.
type Row struct {
	Key string
	// Revision is that of its last change.
	Revision int64
	Value    []byte
}

const (
	rowsSQL = `SELECT name, id, value FROM kine
	WHERE deleted = 0 AND id IN (SELECT MAX(id) FROM kine WHERE name >= ? AND name < ? GROUP BY name)`
	newestSQL = `SELECT COALESCE(MAX(id), 0) FROM kine`
)

// Rows calls f with everything that is stored below a prefix at one moment, in no
// order, and returns the revision of that moment: a watch from there on misses nothing.
// It ends at the first error of f. It has to end before Close.
func (d *Datastore) Rows(ctx context.Context, prefix string, f func(Row) error) (revision int64, err error) {
	tx, err := d.sizes.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", prefix, err)
	}
	defer func() { _ = tx.Rollback() }() // it has read only
	if err := tx.QueryRowContext(ctx, newestSQL).Scan(&revision); err != nil {
		return 0, fmt.Errorf("reading the revision of the data store: %w", err)
	}
	rows, err := tx.QueryContext(ctx, rowsSQL, prefix, endOf(prefix))
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", prefix, err)
	}
	defer rows.Close()
	for rows.Next() {
		var r Row
		if err := rows.Scan(&r.Key, &r.Revision, &r.Value); err != nil {
			return 0, fmt.Errorf("reading %s: %w", prefix, err)
		}
		if err := f(r); err != nil {
			return 0, err
		}
	}
	return revision, rows.Err()
}

// endOf is the first key after those below a prefix.
func endOf(prefix string) string {
	last := len(prefix) - 1
	return prefix[:last] + string(prefix[last]+1)
}
