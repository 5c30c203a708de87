// Package datastore is the apiserver's storage: kine on SQLite, spoken to in
// etcd's protocol over a unix socket in the data directory.
//
// It links kine's sqlite driver and gRPC server only; kine/pkg/endpoint would
// bring every driver and 17 MB with it.
package datastore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"fleet.nationtech.io/fleet/pkg/guard"
)

const (
	// FileName is the SQLite database in the data directory.
	FileName = "state.db"

	socketName = "kine.sock"
	// maxSocketPath is sizeof(sockaddr_un.sun_path) less the final NUL.
	maxSocketPath = 107

	// dsnParams: synchronous=FULL because an acknowledged write must survive a
	// power cut; with kine's default NORMAL, 6 of 8 simulated cuts lost some.
	// VACUUM at each start is off: on a slow card it delays the start by minutes. The
	// log is cut down to 4 MiB after a long one.
	dsnParams = "?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=30000&_txlock=immediate&_stmt_cache_size=20&_kine_disable_startup_vacuum=1&_pragma=journal_size_limit(4194304)"

	// emulatedEtcd is the etcd version that kine reports to the apiserver.
	emulatedEtcd = "3.6.6"
	// pollInterval bounds how late a write by another process is seen; writes of
	// this process wake kine at once.
	pollInterval = 5 * time.Second
	// notifyInterval is how often a watch reports its progress. One that comes back
	// reads what happened since, so it is well below the age of what a compaction
	// deletes.
	notifyInterval = 45 * time.Second
	// maxRequest is larger than the apiserver's own limit for a request body (3 MiB).
	maxRequest = 4 << 20
)

// ErrDamaged: the database file cannot be read.
var ErrDamaged = errors.New("the database is damaged")

// Datastore is a running kine.
type Datastore struct {
	// Endpoint is the etcd URL to connect to.
	Endpoint string

	server *grpc.Server
	disk   *disk
	sizes  *sizes
	upkeep *upkeep
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Open opens or creates the database in dir and serves it until Close. It
// returns ErrDamaged when the file is no usable database.
func Open(dir string, panics *guard.Panics, logger *slog.Logger) (*Datastore, error) {
	return open(dir, panics, logger, ofServers)
}

func open(dir string, panics *guard.Panics, logger *slog.Logger, kept history) (*Datastore, error) {
	socket := filepath.Join(dir, socketName)
	if len(socket) > maxSocketPath {
		return nil, fmt.Errorf("opening the data store: the path %s is longer than the %d bytes of a unix socket: choose a shorter data directory", socket, maxSocketPath)
	}
	if err := makePrivate(filepath.Join(dir, FileName)); err != nil {
		return nil, fmt.Errorf("opening the data store: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Datastore{Endpoint: "unix://" + socket, cancel: cancel, disk: &disk{dir: dir, logger: logger}}
	if err := d.start(ctx, filepath.Join(dir, FileName), socket, panics, kept); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Datastore) start(ctx context.Context, path, socket string, panics *guard.Panics, kept history) error {
	backend, err := d.openBackend(ctx, path, kept)
	if err != nil {
		return err
	}
	if d.sizes, err = openSizes(path); err != nil {
		return err
	}
	if d.upkeep, err = openUpkeep(path, d.disk.logger); err != nil {
		return err
	}
	keeping, stop := context.WithCancel(ctx)
	d.upkeep.stop = stop
	d.done.Go(func() { _ = panics.Loop("data-store-upkeep", d.disk.logger).Keep(keeping, d.upkeep.run) }) // it returns no error
	if err := d.serve(backend, socket); err != nil {
		return fmt.Errorf("opening the data store: %w", err)
	}
	return nil
}

// Full returns ErrFull, with numbers, while the disk has no room for writes. It may
// be asked at each request.
func (d *Datastore) Full() error { return d.disk.check() }

// RoomForBus returns ErrFull, with numbers, unless the disk of the data directory has so
// many bytes free for what the bus writes.
func (d *Datastore) RoomForBus(bytes int64) error { return d.disk.room("the bus", bytes) }

// LastFull is when the disk was seen to be full for the last time.
func (d *Datastore) LastFull() time.Time { return d.disk.lastFull() }

// Space is what the disk has.
func (d *Datastore) Space() Space { return d.disk.now() }

// FileSizes are the sizes of the database.
func (d *Datastore) FileSizes(ctx context.Context) (FileSizes, error) { return d.upkeep.sizes(ctx) }

// makePrivate creates the database if it is missing, and keeps it from other
// users. SQLite gives its further files the mode of the database.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

// Close stops serving and closes the database. It may be called twice.
func (d *Datastore) Close() {
	if d.server != nil {
		d.server.Stop()
	}
	// Whoever closes the database last writes its log into it. The one for sizes must
	// not be the last: it may only read, and state.db would lack what was written
	// since the last start.
	if d.sizes != nil {
		_ = d.sizes.db.Close() // it has written nothing
	}
	if d.upkeep != nil {
		d.upkeep.stop()
		_ = d.upkeep.db.Close() // what it was doing is undone
	}
	d.cancel()
	d.done.Wait()
}

func (d *Datastore) openBackend(ctx context.Context, path string, kept history) (server.Backend, error) {
	if err := checkHeader(path); err != nil {
		return nil, err
	}
	if err := checkReadable(ctx, path); err != nil {
		return nil, err
	}
	if err := prepare(ctx, path, d.disk.logger); err != nil {
		return nil, err
	}
	if err := keepPrivate(path); err != nil {
		return nil, err
	}
	backend, err := openKine(ctx, &d.done, path, kept, d.disk)
	if err != nil {
		return nil, explain(path, err)
	}
	return backend, nil
}

func (d *Datastore) serve(backend server.Backend, socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	d.server = grpc.NewServer(
		// A watch that begins while the backend ends would never end.
		grpc.WaitForHandlers(true),
		grpc.StreamInterceptor(rangesOfWatches),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(1<<31-1),
		// The apiserver's client pings idle connections more often than gRPC allows
		// by default, and would be cut off for it.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	server.New(backend, "unix", notifyInterval, emulatedEtcd).Register(d.server)
	d.done.Go(func() { _ = d.server.Serve(l) }) // returns when Close stops the server
	return nil
}

// keepPrivate makes the database a file of this user alone. SQLite would let
// everybody read it, and gives the files beside it the mode that it has.
func keepPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening the data store: %w", err)
	}
	err = f.Close()
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		if e := os.Chmod(p, 0o600); !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return fmt.Errorf("keeping the data store private: %w", err)
	}
	return nil
}

// checkHeader refuses a file that SQLite did not write. kine would try to open
// it for five minutes.
func checkHeader(path string) error {
	const magic = "SQLite format 3\x00"
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the data store: %w", err)
	}
	defer f.Close()
	header := make([]byte, len(magic))
	n, err := io.ReadFull(f, header)
	if n == 0 && errors.Is(err, io.EOF) {
		return nil // created by a first start that was cut short
	}
	if err != nil || string(header) != magic {
		return damaged(path, "it is not an SQLite database")
	}
	return nil
}

// checkReadable reads the schema and the newest row. kine would try again for
// five minutes when the pages of either are damaged.
func checkReadable(ctx context.Context, path string) error {
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return nil // the first start
	}
	db, err := sql.Open(sqlDriver(), path)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // which the pragma is for
	// A process that ends may still write its log into the file.
	if _, err := db.ExecContext(ctx, "PRAGMA busy_timeout=30000"); err != nil {
		return explain(path, err)
	}
	var tables, newest sql.NullInt64
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = 'kine'").Scan(&tables); err != nil {
		return explain(path, err)
	}
	if tables.Int64 == 0 {
		return nil // a first start that was cut short
	}
	if err := db.QueryRowContext(ctx, "SELECT max(id) FROM kine").Scan(&newest); err != nil {
		return explain(path, err)
	}
	return nil
}

// sqlDriver is the name of the SQLite driver that kine links: it differs with
// and without cgo.
func sqlDriver() string {
	if slices.Contains(sql.Drivers(), "sqlite") {
		return "sqlite"
	}
	return "sqlite3"
}

func damaged(path, reason string) error {
	return fmt.Errorf("%w: %s: %s: restore it from a backup, or move it away together with its -wal and -shm files to start empty", ErrDamaged, path, reason)
}

// explain turns SQLite's words into what an operator can act on. The driver
// differs between builds, so the text is all there is to go by.
func explain(path string, err error) error {
	msg := err.Error()
	for _, sign := range []string{"malformed", "not a database", "file is encrypted"} {
		if strings.Contains(msg, sign) {
			return damaged(path, msg)
		}
	}
	return fmt.Errorf("opening %s: %w", path, err)
}
