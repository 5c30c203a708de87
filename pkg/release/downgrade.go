package release

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/version"
)

// ErrDowngrade: the release is older than what there is. A signature has no
// end, so that an old release would otherwise bring its old faults back.
var ErrDowngrade = errors.New("to go back to an older release, say --allow-downgrade")

// bundledName is the file with the time of the newest bundle whose images were
// taken over.
const bundledName = "bundled"

// served is what is known of the release that is served; nothing, if there is none.
func (s *Store) served() (about, error) {
	v, err := s.Version()
	if errors.Is(err, ErrNone) {
		return about{}, nil
	}
	if err != nil {
		return about{}, err
	}
	a, err := readAbout(filepath.Join(s.dir, currentName, wwwName, "mirror", v))
	if err != nil { // what is damaged must not keep its successor out
		return about{version: v}, nil
	}
	return a, nil
}

// refuseOlder compares with what is served, or else with what is installed, in
// versions and in dates: a version that was withdrawn has a higher one.
func (b *build) refuseOlder() error {
	if b.AllowDowngrade {
		return nil
	}
	switch old := b.served; {
	case old.version == "":
		if version.Older(b.about.version, b.Installed) {
			return fmt.Errorf("version %s is older than this server, which is %s: %w", b.about.version, b.Installed, ErrDowngrade)
		}
	case version.Older(b.about.version, old.version):
		return fmt.Errorf("version %s is older than %s, which is served: %w", b.about.version, old.version, ErrDowngrade)
	case b.about.date.Before(old.date):
		return fmt.Errorf("version %s is %s, and %s, which is served, is %s: %w", b.about.version, made(b.about.date), old.version, made(old.date), ErrDowngrade)
	}
	return nil
}

func made(date time.Time) string {
	if date.IsZero() {
		return "without a date"
	}
	return "of " + date.UTC().Format(time.RFC3339)
}

// keepBundled refuses images of a bundle that is older than one whose images
// were taken over: their tags would go back. It is written down before the
// images are taken over, so that a power cut in between forgets nothing.
func (b *build) keepBundled() error {
	last, err := b.store.bundled()
	if err != nil {
		return err
	}
	if !b.AllowDowngrade && b.about.bundled.Before(last) {
		return fmt.Errorf("the images were bundled %s, and those that are there %s: %w", made(b.about.bundled), made(last), ErrDowngrade)
	}
	if b.about.bundled.Equal(last) {
		return nil
	}
	return atomicfile.Write(filepath.Join(b.store.dir, bundledName), []byte(b.about.bundled.UTC().Format(time.RFC3339)+"\n"), 0o600)
}

// bundled is the time in the file; zero when there is none.
func (s *Store) bundled() (time.Time, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, bundledName))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when images were bundled: %w", err)
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(data)))
	if err != nil {
		return t, fmt.Errorf("reading %s: %w: remove it to take any bundle", filepath.Join(s.dir, bundledName), err)
	}
	return t, nil
}
