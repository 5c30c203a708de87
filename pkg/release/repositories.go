package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/release/aptrepo"
	"fleet.nationtech.io/fleet/pkg/release/signing"
)

// repositories are those below a directory that is served. The gateway signs
// that of apt; that of dnf its maker has signed.
type repositories struct {
	www string
	key *signing.Key
}

func (r *repositories) path(elem ...string) string {
	return filepath.Join(append([]string{r.www}, elem...)...)
}

// write makes the apt repository of the packages that are there.
func (r *repositories) write(t term) error {
	if err := aptrepo.Write(r.path("apt"), r.key, t.date); err != nil {
		return fmt.Errorf("writing the apt repository: %w", err)
	}
	return r.sign(t)
}

// sign signs the apt repository that is there.
func (r *repositories) sign(t term) error {
	if err := aptrepo.Renew(r.path("apt"), r.key, t.date, t.until); err != nil {
		return fmt.Errorf("signing the apt repository: %w", err)
	}
	return nil
}

// publishKeys writes the keys that devices ask for. That of the gateway signs
// the apt repository, that of the maker, a file that may be missing, rpm packages
// and their index: who verifies one of the two must not take the other. keys.asc has both, for
// agents that know no better.
func (r *repositories) publishKeys(packagesKey string) error {
	keys := map[string][][]byte{"gateway.asc": nil, "keys.asc": nil}
	maker, err := os.ReadFile(packagesKey)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		keys["keys.asc"] = [][]byte{maker}
		if err := r.publish(packagesKeyName, maker); err != nil {
			return err
		}
	}
	for name, others := range keys {
		public, err := r.key.Public(others...)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrContent, packagesKeyName, err)
		}
		if err := r.publish(name, public); err != nil {
			return err
		}
	}
	return nil
}

// publish writes a file anew: the one that is there may be a hard link to one
// that is served.
func (r *repositories) publish(name string, data []byte) error {
	if err := os.Remove(r.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(r.path(name), data, 0o644)
}
