//go:build linux

package helper_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/helper/storage"
)

// The helper looks at podman's storage and repairs it, or says why not.
func TestStorage(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	database := filepath.Join(root, "db.sql")
	if err := os.WriteFile(database, []byte("gar\x1bbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	var runs atomic.Bool
	runs.Store(true)
	client := serve(t, &helper.Server{Storage: storage.Mender{
		Root: root,
		Run:  func(context.Context, string, ...string) error { return nil },
		Runs: func() (bool, error) { return runs.Load(), nil },
	}})
	damages, err := client.Damages(t.Context())
	if err != nil || len(damages) != 1 || damages[0].Kind != storage.Database {
		t.Fatalf("got %+v, %v", damages, err)
	}
	if done, err := client.Repair(t.Context()); !errors.Is(err, helper.ErrStorage) || !strings.Contains(err.Error(), "containers run") {
		t.Errorf("while containers run: %q, %v", done, err)
	}
	runs.Store(false)
	if done, err := client.Repair(t.Context()); err != nil || !strings.Contains(done, "database was set aside") {
		t.Errorf("got %q, %v", done, err)
	}
	if _, err := os.Lstat(database); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the database: %v", err)
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Errorf("bringing it to the disk: %v", err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if err := client.Flush(t.Context()); !errors.Is(err, helper.ErrStorage) {
		t.Errorf("bringing to the disk what is not there: %v", err)
	}
	client.Socket += "-none"
	if _, err := client.Damages(t.Context()); !errors.Is(err, helper.ErrUnavailable) {
		t.Errorf("without a helper: %v", err)
	}
}
