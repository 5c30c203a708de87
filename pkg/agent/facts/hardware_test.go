package facts_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/facts"
)

const (
	dmi     = "sys/class/dmi/id/product_uuid"
	tree    = "proc/device-tree/serial-number"
	sysTree = "sys/firmware/devicetree/base/serial-number"
	machine = "etc/machine-id"
)

func TestHardwareID(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		files map[string]string
		// number is what the id is made of; empty when there is none.
		number string
	}{
		"firmware before disk":  {map[string]string{dmi: "4C4C4544-0042\n", tree: "10000000abc\x00", machine: "m1\n"}, "4c4c4544-0042"},
		"a board":               {map[string]string{tree: "10000000abc\x00", machine: "m1\n"}, "10000000abc"},
		"a board without proc":  {map[string]string{sysTree: "10000000abc\x00", machine: "m1\n"}, "10000000abc"},
		"a container":           {map[string]string{machine: "m1\n"}, "m1"},
		"firmware never set up": {map[string]string{dmi: "00000000-0000-0000-0000-000000000000\n", tree: "\x00", machine: "m1\n"}, "m1"},
		"all ones":              {map[string]string{dmi: "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n", machine: "m1\n"}, "m1"},
		"that of every board":   {map[string]string{dmi: "03000200-0400-0500-0006-000700080009\n", machine: "m1\n"}, "m1"},
		"words":                 {map[string]string{dmi: "To be filled by O.E.M.\n", tree: "0123456789ABCDEF\x00", machine: "m1\n"}, "m1"},
		"a maker's own form":    {map[string]string{dmi: "31393138-3538-5A43-3135-353130323751\n", machine: "m1\n"}, "31393138-3538-5a43-3135-353130323751"},
		"nothing":               {nil, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			for path, content := range tt.files {
				write(t, root, path, content)
			}
			got, err := facts.HardwareID(root)
			if tt.number == "" {
				if !errors.Is(err, facts.ErrHardware) {
					t.Errorf("got %q and %v", got, err)
				}
				return
			}
			sum := sha256.Sum256([]byte("fleet hardware id\x00" + tt.number))
			if want := hex.EncodeToString(sum[:]); err != nil || got != want {
				t.Errorf("got %q, want %q: %v", got, want, err)
			}
		})
	}
}

func TestHardwareIDThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	root := t.TempDir()
	write(t, root, dmi, "4C4C4544")
	if err := os.Chmod(filepath.Join(root, dmi), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := facts.HardwareID(root); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v", err)
	}
}
