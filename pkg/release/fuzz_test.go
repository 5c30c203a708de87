package release_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/pkg/release/aptrepo"
	"fleet.nationtech.io/fleet/pkg/release/rpmrepo"
	"fleet.nationtech.io/fleet/test/releasetest"
)

// FuzzDeb lists a file of the pool: what comes of it is one paragraph or an
// error.
func FuzzDeb(f *testing.F) {
	deb, err := releasetest.Deb("fleet-agent", "1.0.0")
	must(f, err)
	f.Add(deb)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "pool"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "pool", "x.deb"), data, 0o600))
		if aptrepo.Write(dir, unsigned{}, time.Now()) != nil {
			return
		}
		lists, err := filepath.Glob(filepath.Join(dir, "dists", "stable", "main", "*", "Packages"))
		must(t, err)
		for _, list := range lists {
			text, err := os.ReadFile(list)
			must(t, err)
			if n := strings.Count(strings.TrimSpace(string(text)), "\n\n"); n > 0 {
				t.Errorf("one package makes %d paragraphs: %q", n+1, text)
			}
		}
	})
}

// FuzzRPM lists a file as an rpm package.
func FuzzRPM(f *testing.F) {
	m, err := maker()
	must(f, err)
	rpm, err := m.RPM("fleet-agent", "1.0.0")
	must(f, err)
	f.Add(rpm)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "x.rpm")
		must(t, os.WriteFile(path, data, 0o600))
		_, _ = rpmrepo.Make([]string{path}, time.Now()) // what becomes of it is all the same
	})
}

// FuzzIndex verifies what is no index of the package.
func FuzzIndex(f *testing.F) {
	none, err := rpmrepo.Make(nil, time.Unix(1, 0))
	must(f, err)
	f.Add(none.Repomd, none.Primary, none.Filelists)
	f.Fuzz(func(t *testing.T, repomd, primary, filelists []byte) {
		index := rpmrepo.Index{Repomd: repomd, Primary: primary, Filelists: filelists}
		if err := index.Verify(map[string]string{"x.rpm": strings.Repeat("0", 64)}); !errors.Is(err, rpmrepo.ErrOther) {
			t.Errorf("error is %v", err)
		}
	})
}

// FuzzBundle imports a bundle that is not what its maker signed: nothing is
// served, and nothing is written elsewhere.
func FuzzBundle(f *testing.F) {
	m, err := maker()
	must(f, err)
	dir := f.TempDir()
	must(f, m.Write(dir, map[string][]byte{"version": []byte("1.0.0\n"), "fleet-agent_1.0.0_linux_" + runtime.GOARCH: []byte("a program"), "images/a.tar": []byte("an image")}))
	bundle, err := releasetest.Tar(dir)
	must(f, err)
	f.Add(bundle)
	other, err := releasetest.NewMaker()
	must(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "bundle.tar")
		must(t, os.WriteFile(path, data, 0o600))
		source, err := release.OpenSource(path)
		must(t, err)
		defer source.Close()
		dataDir := filepath.Join(dir, "data")
		must(t, os.Mkdir(dataDir, 0o700))
		store := release.Open(dataDir)
		_, err = store.Import(t.Context(), release.Import{Source: source, Key: other.PublicKey(), Images: func(string) error { t.Error("an image is taken over"); return nil }, Now: time.Now})
		if err == nil {
			t.Error("it is taken for a release of its maker")
		}
		here, err := os.ReadDir(dir)
		must(t, err)
		if len(here) != 2 {
			t.Errorf("there are %v", here)
		}
	})
}
