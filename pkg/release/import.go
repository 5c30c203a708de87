package release

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/release/signing"
)

// channel is the only one that a gateway serves: it holds one release.
const channel = "stable"

// maxSmall bounds files that are read into memory, in bytes.
const maxSmall = 1 << 20

// ErrBusy: another import is under way.
var ErrBusy = errors.New("another import is under way: try again when it is done")

// Import says what to import.
type Import struct {
	Source *Source
	// Key is the public key of the maker. Nil trusts whoever made Source.
	Key *ecdsa.PublicKey
	// AllowDowngrade takes a release that is older than the one that is served.
	AllowDowngrade bool
	// Installed is the version of this server, which a first release must not be
	// older than. Empty for any.
	Installed string
	// Images takes over a container image, an archive, once it is verified.
	Images func(path string) error
	// Notice gets a line about what devices will not get from the release; may be nil.
	Notice func(line string)
	// Now is the time from which the gateway's signatures count. Sane says whether
	// that can be believed; nil, it can.
	Now  func() time.Time
	Sane func() error
}

// Import verifies a release and serves it from then on. It returns its
// version. What was served before stays until the new one is complete. Errors
// wrap ErrSignature, ErrContent, ErrSpace, ErrNoKey, ErrDowngrade or ErrBusy, or come
// from the disk or the mirror.
func (s *Store) Import(ctx context.Context, i Import) (version string, err error) {
	unlock, err := s.lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := s.sweep(); err != nil {
		return "", err
	}
	list, err := i.Source.list(ctx, i.Key)
	if err != nil {
		return "", err
	}
	if i.Source.mirror != nil && s.holds(list.sums) {
		return s.Version()
	}
	work, err := os.MkdirTemp(s.dir, importPrefix)
	if err != nil {
		return "", fmt.Errorf("importing the release: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }() // nothing is left of it after success
	b := &build{Import: i, store: s, list: list, files: filepath.Join(work, "files"), dir: filepath.Join(work, "release")}
	if err := b.run(ctx); err != nil {
		return "", err
	}
	return b.about.version, s.switchTo(b.dir, b.about.version)
}

// holds reports whether the release that is served is the one with this list.
func (s *Store) holds(sums []byte) bool {
	version, err := s.Version()
	if err != nil {
		return false
	}
	held, err := os.ReadFile(filepath.Join(s.dir, currentName, wwwName, "mirror", version, checksumsName))
	return err == nil && bytes.Equal(held, sums)
}

// lock keeps other imports out.
func (s *Store) lock() (unlock func(), err error) {
	if _, err := os.Stat(filepath.Dir(s.dir)); err != nil {
		return nil, fmt.Errorf("importing the release: %w: has the server run here?", err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("importing the release: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("importing the release: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("importing the release: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// sweep removes what is not served: an import that was interrupted, and what
// the last one replaced if it could not.
func (s *Store) sweep() error {
	current, err := s.current()
	if err != nil && !errors.Is(err, ErrNone) {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("importing the release: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != current {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return fmt.Errorf("removing an old release: %w", err)
			}
		}
	}
	return atomicfile.Sweep(s.dir)
}

// switchTo serves a complete release of a version instead of the present one.
func (s *Store) switchTo(dir, version string) error {
	name := version + "-" + strings.ToLower(rand.Text()[:8])
	if err := syncAll(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(s.dir, name)); err != nil {
		return fmt.Errorf("importing the release: %w", err)
	}
	if err := atomicfile.Link(name, filepath.Join(s.dir, currentName)); err != nil {
		return fmt.Errorf("importing the release: %w", err)
	}
	return s.sweep()
}

// syncAll brings everything that was written to the disk: a power cut leaves
// the old release or the whole new one.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the release: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncing the release: %w", err)
	}
	return nil
}

// build makes a release from what came from outside.
type build struct {
	Import

	store *Store
	list  *list
	// files has what came, dir what is made of it.
	files, dir string
	about      about
	// served is the release of before.
	served about
}

func (b *build) run(ctx context.Context) error {
	for _, dir := range []string{b.files, b.dir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("importing the release: %w", err)
		}
	}
	if err := b.Source.unpack(ctx, b.files, b.list); err != nil {
		return err
	}
	if err := verify(b.files, b.Key); err != nil {
		return err
	}
	for _, step := range []func() error{b.read, b.refuseOlder, b.images, b.layOut, b.dnf, b.repositories} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

var versionPattern = regexp.MustCompile(`^[0-9][A-Za-z0-9._+~-]{0,99}$`)

func (b *build) read() (err error) {
	if b.about, err = readAbout(b.files); err != nil {
		return err
	}
	b.served, err = b.store.served()
	return err
}

// images hands the images over. The registry has them then, so that they are
// no part of what the mirror serves.
func (b *build) images() error {
	images, err := filepath.Glob(filepath.Join(b.files, imagesDir, "*"))
	if err != nil {
		return err
	}
	if len(images) > 0 {
		if err := b.keepBundled(); err != nil {
			return err
		}
	}
	for _, image := range images {
		if err := b.Images(image); err != nil {
			return fmt.Errorf("importing image %s: %w", filepath.Base(image), err)
		}
	}
	return os.RemoveAll(filepath.Join(b.files, imagesDir))
}

// layOut links every file to each place where it is served.
func (b *build) layOut() error {
	entries, err := os.ReadDir(b.files)
	if err != nil {
		return err
	}
	for _, e := range entries {
		for _, place := range b.places(e.Name()) {
			if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
				return err
			}
			if err := os.Link(filepath.Join(b.files, e.Name()), place); err != nil {
				return fmt.Errorf("importing the release: %w", err)
			}
		}
	}
	return nil
}

func (b *build) places(name string) []string {
	places := []string{b.www("mirror", b.about.version, name)}
	switch {
	case name == versionName:
		places = append(places, b.www("mirror", channel, versionName))
	case name == installerName:
		places = append(places, filepath.Join(b.dir, installerName))
	case strings.HasSuffix(name, ".deb"):
		places = append(places, b.www("apt", "pool", name))
	}
	return places
}

func (b *build) www(elem ...string) string {
	return filepath.Join(append([]string{b.dir, wwwName}, elem...)...)
}

func (b *build) repositories() error {
	before, err := b.store.term()
	if err != nil {
		return err
	}
	sane := b.Sane == nil || b.Sane() == nil
	t := newTerm(b.about.date, before, b.Now(), sane)
	key, err := signing.Open(filepath.Join(b.store.dir, signingKeyName), t.date)
	if err != nil {
		return err
	}
	r := repositories{www: b.www(), key: key}
	if err := r.write(t); err != nil {
		return err
	}
	return r.publishKeys(filepath.Join(b.files, packagesKeyName))
}
