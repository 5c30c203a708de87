package storage_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/helper/storage"
)

var (
	base, top  = strings.Repeat("a", 64), strings.Repeat("b", 64)
	one, other = strings.Repeat("1", 64), strings.Repeat("2", 64)
)

// whole makes a storage as podman does: image one has layers base and top, image other base
// alone.
func whole(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	layers := []map[string]any{{"id": base}, {"id": top, "parent": base}}
	images := []map[string]any{
		{"id": one, "layer": top, "big-data-sizes": map[string]int{"manifest": 8}}, {"id": other, "layer": base},
	}
	write(t, root, "overlay-layers/layers.json", encode(t, layers))
	write(t, root, "overlay-images/images.json", encode(t, images))
	write(t, root, "overlay-images/"+one+"/manifest", []byte("manifest"))
	write(t, root, "overlay-containers/containers.json", []byte("[]"))
	write(t, root, "db.sql", append([]byte("SQLite format 3\x00"), make([]byte, 4096)...))
	write(t, root, "volumes/shop_web_data/_data/precious", []byte("data"))
	for id, files := range map[string]map[string]string{base: {"bin/sh": "shell", "etc/empty": ""}, top: {"./app/run": "program"}} {
		var list bytes.Buffer
		zipped := gzip.NewWriter(&list)
		fmt.Fprintln(zipped, `{"type":2,"payload":"","position":0}`)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			fmt.Fprintf(zipped, `{"type":1,"name":%q,"size":%d,"payload":"xx","position":1}`+"\n", name, len(files[name]))
			write(t, root, filepath.Join("overlay", id, "diff", name), []byte(files[name]))
		}
		must(t, zipped.Close())
		write(t, root, "overlay-layers/"+id+".tar-split.gz", list.Bytes())
		write(t, root, "overlay/"+id+"/link", []byte("SHORT"))
	}
	return root
}

func write(t *testing.T, root, name string, data []byte) {
	t.Helper()
	path := filepath.Join(root, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, data, 0o600))
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	bolt := make([]byte, 8192)
	binary.NativeEndian.PutUint32(bolt[4096+16:], 0xED0CDAED)
	file := func(name string, data []byte) func(*testing.T, string) {
		return func(t *testing.T, root string) { write(t, root, name, data) }
	}
	gone := func(name string) func(*testing.T, string) {
		return func(t *testing.T, root string) { must(t, os.RemoveAll(filepath.Join(root, name))) }
	}
	for name, tt := range map[string]struct {
		harm func(t *testing.T, root string)
		want []string
	}{
		"whole": {func(*testing.T, string) {}, nil},
		"none":  {gone(""), nil},
		"fresh": {func(t *testing.T, root string) {
			gone("overlay")(t, root)
			gone("overlay-layers")(t, root)
			gone("overlay-images")(t, root)
		}, nil},
		"file cut off":           {file("overlay/"+top+"/diff/app/run", nil), []string{"image " + one + ` layer bbbbbbbbbbbb: "app/run" has 0 bytes of 7`}},
		"file of a shared layer": {gone("overlay/" + base + "/diff/bin/sh"), []string{"image " + one + ` layer aaaaaaaaaaaa: "bin/sh" is missing`, "image " + other + ` layer aaaaaaaaaaaa: "bin/sh" is missing`}},
		"file that is a directory": {func(t *testing.T, root string) {
			gone("overlay/"+base+"/diff/bin/sh")(t, root)
			must(t, os.Mkdir(filepath.Join(root, "overlay", base, "diff/bin/sh"), 0o700))
		}, nil},
		"layer gone":             {gone("overlay/" + top), []string{"image " + one + " layer bbbbbbbbbbbb: its link is missing"}},
		"link empty":             {file("overlay/"+top+"/link", nil), []string{"image " + one + " layer bbbbbbbbbbbb: its link is missing"}},
		"list of files empty":    {file("overlay-layers/"+top+".tar-split.gz", nil), []string{"image " + one + " layer bbbbbbbbbbbb: the list of its files is cut off"}},
		"list of files not kept": {gone("overlay-layers/" + top + ".tar-split.gz"), nil},
		"layer unknown":          {file("overlay-layers/layers.json", encode(t, []map[string]any{{"id": base}})), []string{"image " + one + " layer bbbbbbbbbbbb: it is not there"}},
		"manifest cut off":       {file("overlay-images/"+one+"/manifest", []byte("man")), []string{"image " + one + ` "overlay-images/` + one + `/manifest" has 3 bytes of 8`}},
		"layers in a circle":     {file("overlay-layers/layers.json", encode(t, []map[string]any{{"id": base, "parent": top}, {"id": top, "parent": base}})), nil},
		"ids with paths":         {file("overlay-images/images.json", encode(t, []map[string]any{{"id": one, "layer": "../../etc"}})), []string{"image " + one + " layer ../../etc: it is not there"}},
		"index empty":            {file("overlay-layers/layers.json", nil), []string{"index overlay-layers/layers.json it is empty"}},
		"index damaged":          {file("overlay-images/images.json", []byte("[{")), []string{"index overlay-images/images.json it is not what podman writes"}},
		"database damaged":       {file("db.sql", bytes.Repeat([]byte("x"), 9000)), []string{"database db.sql it is no database"}},
		"database empty":         {file("db.sql", nil), nil},
		"earlier database":       {func(t *testing.T, root string) { gone("db.sql")(t, root); write(t, root, "libpod/bolt_state.db", bolt) }, nil},
		"earlier one damaged": {func(t *testing.T, root string) {
			gone("db.sql")(t, root)
			write(t, root, "libpod/bolt_state.db", bolt[:4096])
		},
			[]string{"database libpod/bolt_state.db it is no database"}},
		"half migrated": {file("libpod/bolt_state.db", bolt), []string{"migration db.sql there is libpod/bolt_state.db, too: podman did not finish moving from one database to the other, which it does when the device is restarted"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := whole(t)
			tt.harm(t, root)
			found, err := storage.Look(root)
			must(t, err)
			var got []string
			for _, d := range found {
				got = append(got, fmt.Sprintf("%s %s %s", d.Kind, d.What, strings.Replace(d.Why, root, "", 1)))
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// What is set aside is what podman cannot start with, and no more; data never.
func TestSetAside(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		harm       string
		gone, kept []string
	}{
		"database": {"db.sql", []string{"db.sql", "db.sql-wal"}, []string{"overlay", "overlay-images", "overlay-layers"}},
		"index":    {"overlay-images/images.json", []string{"db.sql", "db.sql-wal", "overlay", "overlay-images", "overlay-layers", "overlay-containers"}, nil},
		"nothing":  {"", nil, []string{"db.sql", "overlay", "overlay-images"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := whole(t)
			write(t, root, "db.sql-wal", []byte("w"))
			if tt.harm != "" {
				write(t, root, tt.harm, []byte("garbage"))
			}
			found, err := storage.Look(root)
			must(t, err)
			done, err := storage.SetAside(root, found)
			must(t, err)
			if (done == "") != (tt.harm == "") || len(storage.Rests(root)) != min(1, len(tt.gone)) {
				t.Errorf("it did %q, and there are %q", done, storage.Rests(root))
			}
			for _, name := range tt.gone {
				if _, err := os.Lstat(filepath.Join(root, name)); !os.IsNotExist(err) {
					t.Errorf("%s: %v", name, err)
				}
			}
			for _, name := range append(tt.kept, "volumes/shop_web_data/_data/precious") {
				_, err := os.Lstat(filepath.Join(root, name))
				must(t, err)
			}
			found, err = storage.Look(root)
			must(t, err)
			if len(found) != len(storage.Rests(root)) {
				t.Errorf("still damaged: %v", found)
			}
		})
	}
}

var errFails = errors.New("it fails")

// A mender stops podman only when nothing runs, starts it in any case, and deletes what it
// set aside, also after a power cut in between.
func TestRepair(t *testing.T) {
	t.Parallel()
	stop, start := "systemctl --user stop podman.socket podman.service", "systemctl --user start podman.socket"
	for name, tt := range map[string]struct {
		runs  []bool
		fails string
		want  []string
		err   error
		kept  bool
	}{
		"nothing runs":           {[]bool{false, false}, "", []string{stop, start, "systemd-run"}, nil, false},
		"a container runs":       {[]bool{true}, "", nil, storage.ErrRuns, true},
		"one started meanwhile":  {[]bool{false, true}, "", []string{stop, start}, storage.ErrRuns, true},
		"podman cannot be ended": {[]bool{false}, "stop", []string{stop}, errFails, true},
		"it cannot be deleted":   {[]bool{false, false}, "systemd-run", []string{stop, start, "systemd-run"}, errFails, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := whole(t)
			write(t, root, "db.sql", []byte("garbage"))
			var got []string
			m := storage.Mender{
				Root: root,
				Run: func(_ context.Context, name string, args ...string) error {
					line := name
					if name == "systemctl" {
						line = strings.Join(append([]string{name}, args...), " ")
					}
					got = append(got, line)
					if tt.fails != "" && strings.Contains(line, tt.fails) {
						return errFails
					}
					if name == "systemd-run" {
						return os.RemoveAll(args[len(args)-1])
					}
					return nil
				},
				Runs: func() (bool, error) { r := tt.runs[0]; tt.runs = tt.runs[1:]; return r, nil },
			}
			_, err := m.Repair(t.Context())
			if !errors.Is(err, tt.err) || strings.Join(got, "; ") != strings.Join(tt.want, "; ") {
				t.Errorf("it ran %q and ended with %v, want %q and %v", got, err, tt.want, tt.err)
			}
			if _, err := os.Stat(filepath.Join(root, "db.sql")); (err == nil) != tt.kept {
				t.Errorf("the database: %v", err)
			}
			tt.fails = ""
			if rests := storage.Rests(root); len(rests) > 0 {
				_, err := m.Repair(t.Context()) // without another look at what runs
				must(t, err)
			}
			if rests := storage.Rests(root); len(rests) > 0 {
				t.Errorf("left: %q", rests)
			}
		})
	}
}
