package storage_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper/storage"
)

const (
	secretsFile  = "secrets/secrets.json"
	contentsFile = "secrets/filedriver/secretsdata.json"
)

// secretList is what podman writes.
type secretList struct {
	Secrets  map[string]map[string]any `json:"secrets"`
	NameToID map[string]string         `json:"nameToID"`
	IDToName map[string]string         `json:"idToName"`
}

// withSecrets makes a storage with secrets, by name, each with its content. elsewhere has
// another driver.
func withSecrets(t *testing.T, names ...string) string {
	t.Helper()
	root := whole(t)
	list := secretList{map[string]map[string]any{}, map[string]string{}, map[string]string{}}
	contents := map[string][]byte{}
	for _, name := range names {
		id, driver := "id-"+name, "file"
		if name == "elsewhere" {
			driver = "pass"
		} else {
			contents[id] = []byte("content of " + name)
		}
		list.Secrets[id] = map[string]any{
			"name": name, "id": id, "driver": driver, "driverOptions": map[string]string{"path": filepath.Join(root, "secrets/filedriver")},
		}
		list.NameToID[name], list.IDToName[id] = id, name
	}
	write(t, root, secretsFile, encode(t, list))
	write(t, root, contentsFile, encode(t, contents))
	write(t, root, "secrets/secrets.lock", nil)
	return root
}

// readable returns the secrets that podman can read, which are all of those that it lists.
func readable(t *testing.T, root string) (names []string) {
	t.Helper()
	var list secretList
	var contents map[string][]byte
	for file, into := range map[string]any{secretsFile: &list, contentsFile: &contents} {
		data, err := os.ReadFile(filepath.Join(root, file))
		must(t, err)
		must(t, json.Unmarshal(data, into))
	}
	if list.Secrets == nil || list.NameToID == nil || list.IDToName == nil || contents == nil {
		t.Errorf("podman would write into a map that is not there: %+v, %v", list, contents)
	}
	if len(list.Secrets) != len(list.NameToID) || len(list.Secrets) != len(list.IDToName) {
		t.Errorf("the list does not agree with itself: %+v", list)
	}
	for name, id := range list.NameToID {
		content, there := contents[id]
		if list.Secrets[id]["driver"] == "file" && (!there || string(content) != "content of "+name) {
			t.Errorf("the content of %s is %q", name, content)
		}
		delete(contents, id)
		names = append(names, name)
	}
	if len(contents) > 0 {
		t.Errorf("the contents of %v are left", slices.Collect(maps.Keys(contents)))
	}
	slices.Sort(names)
	return names
}

// Of the secrets that a power cut left in pieces those stay that are whole, and podman can
// make others.
func TestDamagedSecrets(t *testing.T) {
	t.Parallel()
	file := func(name string, data []byte) func(*testing.T, string) {
		return func(t *testing.T, root string) { write(t, root, name, data) }
	}
	gone := func(name string) func(*testing.T, string) {
		return func(t *testing.T, root string) { must(t, os.Remove(filepath.Join(root, name))) }
	}
	of := func(name string, names ...string) func(*testing.T, string) {
		return func(t *testing.T, root string) {
			data, err := os.ReadFile(filepath.Join(withSecrets(t, names...), name))
			must(t, err)
			write(t, root, name, data)
		}
	}
	for name, tt := range map[string]struct {
		harm func(t *testing.T, root string)
		why  string
		want []string
	}{
		"whole":               {func(*testing.T, string) {}, "", []string{"a", "b", "elsewhere"}},
		"list empty":          {file(secretsFile, nil), secretsFile + " it is empty", nil},
		"list cut off":        {file(secretsFile, []byte(`{"secrets":{`)), secretsFile + " it is not what podman writes", nil},
		"list of nothing":     {file(secretsFile, []byte(`{}`)), secretsFile + " it is not what podman writes", nil},
		"list gone":           {gone(secretsFile), secretsFile + " secrets are missing whose content is there", nil},
		"list of before":      {of(secretsFile, "a", "elsewhere"), secretsFile + " secrets are missing whose content is there", []string{"a", "elsewhere"}},
		"contents empty":      {file(contentsFile, nil), contentsFile + " it is empty", []string{"elsewhere"}},
		"contents cut off":    {file(contentsFile, []byte(`{"id-a":"Y29`)), contentsFile + " it is not what podman writes", []string{"elsewhere"}},
		"contents of nothing": {file(contentsFile, []byte(`null`)), contentsFile + " it is not what podman writes", []string{"elsewhere"}},
		"contents gone":       {gone(contentsFile), contentsFile + " the content of secret", []string{"elsewhere"}},
		"contents of before":  {of(contentsFile, "b"), contentsFile + ` the content of secret "a" is missing`, []string{"b", "elsewhere"}},
		"it names what is not there": {func(t *testing.T, root string) {
			var list secretList
			data, err := os.ReadFile(filepath.Join(root, secretsFile))
			must(t, err)
			must(t, json.Unmarshal(data, &list))
			list.NameToID["c"] = "id-c"
			write(t, root, secretsFile, encode(t, list))
		}, secretsFile + " it names secrets that are not there", []string{"a", "b", "elsewhere"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := withSecrets(t, "a", "b", "elsewhere")
			tt.harm(t, root)
			found, err := storage.Look(root)
			must(t, err)
			got := ""
			for _, d := range found {
				got += fmt.Sprintf("%s %s", d.What, d.Why)
				if d.Kind != storage.Secrets {
					t.Errorf("found %+v", d)
				}
			}
			if !strings.HasPrefix(got, tt.why) || tt.why == "" && got != "" {
				t.Errorf("found %q, want %q", got, tt.why)
			}
			m := storage.Mender{Root: root} // which needs not stop podman
			done, err := m.Repair(t.Context())
			if err != nil || (done == "") != (tt.why == "") {
				t.Fatalf("it did %q, %v", done, err)
			}
			if names := readable(t, root); !slices.Equal(names, tt.want) {
				t.Errorf("there are %v, want %v", names, tt.want)
			}
			if found, err := storage.Look(root); err != nil || len(found) > 0 {
				t.Errorf("still damaged: %v, %v", found, err)
			}
		})
	}
}

// Secrets that cannot be read, or not whole, are neither judged nor written: nobody knows what
// would be lost.
func TestSecretsThatCannotBeReadAreLeftAlone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{secretsFile, contentsFile} {
		for what, harm := range map[string]func(path string) error{
			"too long":   func(path string) error { return os.Truncate(path, 16<<20+1) },
			"not a file": func(path string) error { return errors.Join(os.Rename(path, path+".aside"), os.Mkdir(path, 0o700)) },
			"link abroad": func(path string) error {
				return errors.Join(os.Rename(path, path+".aside"), os.Symlink("/etc/passwd", path))
			},
		} {
			t.Run(filepath.Base(name)+" "+what, func(t *testing.T) {
				t.Parallel()
				root := withSecrets(t, "a", "b")
				// The other file is empty, which alone would have everything written anew.
				other := map[string]string{secretsFile: contentsFile, contentsFile: secretsFile}[name]
				write(t, root, other, nil)
				must(t, harm(filepath.Join(root, name)))
				before, err := os.Lstat(filepath.Join(root, name))
				must(t, err)
				found, err := storage.Look(root)
				if err != nil || len(found) > 0 {
					t.Errorf("found %v, %v", found, err)
				}
				if done, err := storage.MendSecrets(root); err == nil || done != "" {
					t.Errorf("it did %q, %v", done, err)
				}
				after, err := os.Lstat(filepath.Join(root, name))
				must(t, err)
				if !os.SameFile(before, after) || before.Size() != after.Size() {
					t.Errorf("%s was %v, and is %v", name, before, after)
				}
				if info, err := os.Stat(filepath.Join(root, other)); err != nil || info.Size() > 0 {
					t.Errorf("%s was written: %v, %v", other, info, err)
				}
			})
		}
	}
}

// While podman does something with secrets they are neither judged nor written.
func TestSecretsInUseAreLeftAlone(t *testing.T) {
	t.Parallel()
	root := withSecrets(t, "a")
	write(t, root, contentsFile, nil)
	lock, err := os.OpenFile(filepath.Join(root, "secrets/secrets.lock"), os.O_RDWR, 0)
	must(t, err)
	must(t, unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}))
	if found, err := storage.Look(root); err != nil || len(found) > 0 {
		t.Errorf("found %v, %v", found, err)
	}
	must(t, lock.Close())
	if found, err := storage.Look(root); err != nil || len(found) != 1 {
		t.Errorf("afterwards: found %v, %v", found, err)
	}
}
