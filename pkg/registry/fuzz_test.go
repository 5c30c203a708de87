package registry_test

import (
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"fleet.nationtech.io/fleet/pkg/registry"
)

// FuzzArchive pushes a file as an archive of images: all of it is stored, or
// nothing of it has a name. Nothing is written elsewhere.
func FuzzArchive(f *testing.F) {
	for _, path := range []string{
		dockerArchive(f, map[string]v1.Image{"web:1": image(f)}),
		ociArchive(f, "web:2", image(f), nil),
	} {
		data, err := os.ReadFile(path)
		must(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "image.tar")
		must(t, os.WriteFile(path, data, 0o600))
		dataDir := filepath.Join(dir, "data")
		must(t, os.Mkdir(dataDir, 0o700))
		s := registry.Open(dataDir)
		if _, err := push(s, path, registry.Name{}); err != nil && len(names(t, s)) > 0 {
			t.Errorf("after %v there are %v", err, names(t, s))
		}
		here, err := os.ReadDir(dir)
		must(t, err)
		if len(here) != 2 {
			t.Errorf("there are %v", here)
		}
	})
}
