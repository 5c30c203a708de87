//go:build linux

package durability_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
)

// Environment of the writer, which is this test binary in another process: it
// has to be stopped without stopping the test.
const (
	envWriterDir  = "FLEET_DURABILITY_DIR"
	envWriterSync = "FLEET_DURABILITY_SYNC"
)

// openKine opens the database that the server's data store opens, with another
// value of synchronous.
func openKine(ctx context.Context, done *sync.WaitGroup, dir, synchronous string) (server.Backend, error) {
	_, backend, err := sqlite.New(ctx, done, &drivers.Config{
		Scheme:               "sqlite",
		DataSourceName:       filepath.Join(dir, "state.db") + "?_journal_mode=WAL&_synchronous=" + synchronous + "&_busy_timeout=30000&_txlock=immediate&_kine_disable_startup_vacuum=1",
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 2, MaxOpen: 4},
		CompactInterval:      time.Hour, CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000,
		PollBatchSize: 500, PollInterval: 5 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	return backend, backend.Start(ctx)
}

func keyOf(i int) string { return fmt.Sprintf("/durability/%d", i) }

// writeForever writes keys and names each on standard output once the database
// has acknowledged it.
func writeForever(dir, synchronous string) error {
	var done sync.WaitGroup
	backend, err := openKine(context.Background(), &done, dir, synchronous)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if _, err := backend.Create(context.Background(), keyOf(i), []byte("acknowledged"), 0); err != nil {
			return err
		}
		if _, err := fmt.Println(keyOf(i)); err != nil {
			return err
		}
	}
}

// writeAndCut cuts the power of a writer and returns how many keys were
// acknowledged and how many of them are lost.
func writeAndCut(t *testing.T, synchronous string) (acknowledged, lost int) {
	t.Helper()
	d := newDisk(t)
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), envWriterDir+"="+d.Dir, envWriterSync+"="+synchronous)
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(stdout)
	var keys []string
	const enough = 500
	for len(keys) < enough && lines.Scan() {
		keys = append(keys, lines.Text())
	}
	d.cut(cmd.Process.Pid, func() {
		must(t, cmd.Process.Kill())
		for lines.Scan() { // what it had said before it was stopped
			keys = append(keys, lines.Text())
		}
		_ = cmd.Wait() // killed
	})
	if len(keys) < enough {
		t.Fatalf("the writer ended after %d keys", len(keys))
	}
	held, err := readKeys(t.Context(), d.Dir)
	if err != nil {
		t.Logf("the database cannot be read: %v", err)
		return len(keys), len(keys)
	}
	for _, key := range keys {
		if !held[key] {
			lost++
		}
	}
	return len(keys), lost
}

// readKeys reads the table itself: kine leaves a damaged database open, and the
// disk could not be unmounted.
func readKeys(ctx context.Context, dir string) (held map[string]bool, err error) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "state.db"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "SELECT name FROM kine")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	held = map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		held[name] = true
	}
	return held, rows.Err()
}

// The control of this package: a cut costs a database that does not sync what
// it had acknowledged, and one that does nothing.
func TestACutLosesWhatIsNotSynced(t *testing.T) {
	acknowledged, lost := writeAndCut(t, "FULL")
	if lost > 0 {
		t.Errorf("with synchronous=FULL %d of %d keys are lost", lost, acknowledged)
	}
	acknowledged, lost = writeAndCut(t, "OFF")
	if lost == 0 {
		t.Errorf("with synchronous=OFF none of %d keys is lost: these cuts prove nothing", acknowledged)
	}
	t.Logf("with synchronous=OFF %d of %d acknowledged keys are lost", lost, acknowledged)
}

// asWriter is main of the writer; it returns only on an error.
func asWriter() error {
	dir := os.Getenv(envWriterDir)
	if dir == "" {
		return errors.New("no directory")
	}
	return writeForever(dir, os.Getenv(envWriterSync))
}
