package release

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"fleet.nationtech.io/fleet/pkg/release/rpmrepo"
)

// repodataPrefix begins the names of the files with an index for dnf:
// repodata-ARCH-PART.
const repodataPrefix = "repodata-"

// dnf lays out the repository of each architecture with the index that the maker
// signed. dnf does what an index says, as removing packages that another makes
// obsolete, so that a gateway must not be able to write one: packages without the
// maker's index are not served to it.
func (b *build) dnf() error {
	repositories := b.dnfRepositories()
	var without []string
	for _, arch := range slices.Sorted(maps.Keys(repositories)) {
		r := repositories[arch]
		if len(r.index) == 0 {
			without = append(without, arch)
			continue
		}
		if err := b.dnfRepository(arch, r); err != nil {
			return fmt.Errorf("laying out the dnf repository for %s: %w", arch, err)
		}
	}
	if len(without) > 0 && b.Notice != nil {
		b.Notice("devices with dnf get no packages of this release, whose maker signed no index for them (" + strings.Join(without, ", ") + "): they need a newer release")
	}
	return nil
}

// dnfRepository is what a release has for an architecture.
type dnfRepository struct {
	// index are the parts of the index that are there.
	index []string
	// packages have their SHA-256 in hex.
	packages map[string]string
}

// dnfRepositories are by architecture. The packages are those for devices.
func (b *build) dnfRepositories() map[string]*dnfRepository {
	all := map[string]*dnfRepository{}
	of := func(arch string) *dnfRepository {
		if all[arch] == nil {
			all[arch] = &dnfRepository{packages: map[string]string{}}
		}
		return all[arch]
	}
	for name, sum := range b.list.want {
		if arch, part, found := repodata(name); found {
			of(arch).index = append(of(arch).index, part)
		} else if arch := rpmArch(name); arch != "" && !optional(name) {
			of(arch).packages[name] = sum
		}
	}
	return all
}

// repodata splits the name of a part of an index.
func repodata(name string) (arch, part string, found bool) {
	rest, found := strings.CutPrefix(name, repodataPrefix)
	if !found {
		return "", "", false
	}
	arch, part, found = strings.Cut(rest, "-")
	return arch, part, found && !strings.Contains(arch, ".")
}

// rpmArch is ARCH of NAME-VERSION-RELEASE.ARCH.rpm, or "".
func rpmArch(name string) string {
	name, found := strings.CutSuffix(name, ".rpm")
	_, arch, _ := cutLast(name, ".")
	if !found || strings.ContainsAny(arch, "-+~") {
		return ""
	}
	return arch
}

func (b *build) dnfRepository(arch string, r *dnfRepository) error {
	parts := map[string][]byte{}
	for _, part := range []string{rpmrepo.RepomdName, rpmrepo.SignatureName, rpmrepo.PrimaryName, rpmrepo.FilelistsName} {
		data, err := readLimited(filepath.Join(b.files, repodataPrefix+arch+"-"+part), maxSmall)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrContent, err)
		}
		parts[part] = data
	}
	if err := b.verifyPackagesKey(parts[rpmrepo.RepomdName], parts[rpmrepo.SignatureName]); err != nil {
		return err
	}
	index := rpmrepo.Index{Repomd: parts[rpmrepo.RepomdName], Primary: parts[rpmrepo.PrimaryName], Filelists: parts[rpmrepo.FilelistsName]}
	if err := index.Verify(r.packages); err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	files := index.Files()
	files[rpmrepo.SignatureName] = parts[rpmrepo.SignatureName]
	return b.writeDNF(b.www("rpm", arch), files, r.packages)
}

func (b *build) writeDNF(dir string, files map[string][]byte, packages map[string]string) error {
	if err := os.MkdirAll(filepath.Join(dir, "repodata"), 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, "repodata", name), data, 0o644); err != nil {
			return err
		}
	}
	for name := range packages {
		if err := os.Link(filepath.Join(b.files, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// verifyPackagesKey checks that the key which devices are given for packages
// signed some data. The time is the release's: no clock of a gateway decides.
func (b *build) verifyPackagesKey(data, signature []byte) error {
	armored, err := readLimited(filepath.Join(b.files, packagesKeyName), maxSmall)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(armored))
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrContent, packagesKeyName, err)
	}
	at := b.about.date
	for _, key := range keys {
		if made := key.PrimaryKey.CreationTime; made.After(at) {
			at = made
		}
	}
	_, err = openpgp.CheckArmoredDetachedSignature(keys, bytes.NewReader(data), bytes.NewReader(signature), &packet.Config{Time: func() time.Time { return at }})
	if err != nil {
		return fmt.Errorf("%w: the index for dnf is not signed by %s: %w", ErrContent, packagesKeyName, err)
	}
	return nil
}
