package release_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/release/aptrepo"
	"fleet.nationtech.io/fleet/pkg/release/rpmrepo"
)

// unsigned signs nothing.
type unsigned struct{}

func (unsigned) Clear(text []byte) ([]byte, error)    { return text, nil }
func (unsigned) Detached(data []byte) ([]byte, error) { return data, nil }

// Packages that nobody signed, and that are damaged anywhere, are an error or
// are listed. They end nothing and take no memory that is not theirs.
func TestDamagedPackages(t *testing.T) {
	t.Parallel()
	m, err := maker()
	must(t, err)
	files, err := m.Files("1.0.0")
	must(t, err)
	for pattern, write := range map[string]func(dir string) error{
		"fleet-agent_1.0.0_" + runtime.GOARCH + ".deb": func(dir string) error { return aptrepo.Write(dir, unsigned{}, time.Now()) },
		"*.rpm": func(dir string) error {
			packages, err := filepath.Glob(filepath.Join(dir, "pool", "*"))
			must(t, err)
			_, err = rpmrepo.Make(packages, time.Now())
			return err
		},
	} {
		for name, data := range files {
			if ok, err := filepath.Match(pattern, name); err != nil || !ok {
				continue
			}
			random := rand.New(rand.NewPCG(1, 2))
			for i := range 300 {
				dir := t.TempDir()
				must(t, os.Mkdir(filepath.Join(dir, "pool"), 0o755))
				damaged := slices.Clone(data)
				for range 1 + i%4 {
					damaged[random.IntN(min(len(damaged), 1500))] = byte(random.IntN(256))
				}
				must(t, os.WriteFile(filepath.Join(dir, "pool", name), damaged[:len(damaged)-random.IntN(len(damaged))*(i%2)], 0o600))
				_ = write(dir) // what becomes of it is all the same
			}
		}
	}
}
