package signing_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/release/signing"
)

func TestTheKeyStays(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.asc")
	var public [2]string
	for i := range public {
		key, err := signing.Open(path, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		data, err := key.Public()
		if err != nil {
			t.Fatal(err)
		}
		public[i] = string(data)
	}
	if public[0] != public[1] {
		t.Error("the second start has another key")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	// A damaged key is not replaced: devices trust the one that there was.
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := signing.Open(path, time.Now()); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v", err)
	}
}
