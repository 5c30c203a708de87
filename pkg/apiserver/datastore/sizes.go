package datastore

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"
)

const (
	// sizeAge is for how long a size is taken for the present one, so that a flood
	// of questions costs nothing.
	sizeAge = time.Second
	// maxSizes bounds the memory of those that are remembered.
	maxSizes = 256
)

// Size is how much is stored below a prefix.
type Size struct {
	// Objects is their number, Bytes what they have together, Largest what the
	// largest has.
	Objects, Bytes, Largest int64
}

// sizes asks the database how much it has. It reads no values: SQLite keeps
// their lengths beside them.
type sizes struct {
	db *sql.DB

	mu    sync.Mutex // guards known, and lets one ask at a time
	known map[string]knownSize
}

type knownSize struct {
	Size
	at time.Time
}

const sizeSQL = `SELECT COUNT(*), COALESCE(SUM(LENGTH(value)), 0), COALESCE(MAX(LENGTH(value)), 0) FROM kine
	WHERE deleted = 0 AND id IN (SELECT MAX(id) FROM kine WHERE name >= ? AND name < ? GROUP BY name)`

func openSizes(path string) (*sizes, error) {
	db, err := sql.Open(sqlDriver(), "file:"+path+"?mode=ro")
	if err != nil {
		return nil, fmt.Errorf("opening %s to read sizes: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	return &sizes{db: db, known: map[string]knownSize{}}, nil
}

// Sizes returns how much is stored below a prefix, as of a second ago at most.
func (d *Datastore) Sizes(ctx context.Context, prefix string) (Size, error) {
	return d.sizes.get(ctx, prefix, time.Now())
}

func (s *sizes) get(ctx context.Context, prefix string, now time.Time) (Size, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.known[prefix]; ok && now.Sub(k.at) < sizeAge {
		return k.Size, nil
	}
	var k knownSize
	if err := s.db.QueryRowContext(ctx, sizeSQL, prefix, endOf(prefix)).Scan(&k.Objects, &k.Bytes, &k.Largest); err != nil {
		return Size{}, fmt.Errorf("reading the size of %s: %w", prefix, err)
	}
	if len(s.known) >= maxSizes {
		clear(s.known)
	}
	k.at = time.Now()
	s.known[prefix] = k
	return k.Size, nil
}
