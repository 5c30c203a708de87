//go:build linux

package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Suites of Debian that devices are tested on.
const (
	// Trixie is Debian 13: systemd 257, podman 5.4.2.
	Trixie = "trixie"
	// Bookworm is Debian 12: systemd 252, podman 4.3.1.
	Bookworm = "bookworm"
	// Sid is what Debian makes of its next release, with podman from experimental: what devices
	// will have. It changes from day to day, so no test needs it; it is for runs by hand.
	Sid = "sid"
)

// rootPackages is what a root has beside Debian's essential packages: systemd,
// all that rootless podman needs (podman only recommends some of it), and tools
// for tests. fleet itself is not in it.
var rootPackages = []string{
	"aardvark-dns", "busybox-static", "ca-certificates", "catatonit", "crun", "curl", "dbus", "dbus-user-session",
	"fuse-overlayfs", "iproute2", "iptables", "libpam-systemd", "netavark", "nftables", "passt", "podman", "procps",
	"slirp4netns", "systemd", "systemd-sysv", "uidmap",
}

// newestPackages are those of Sid that experimental has newer ones of.
var newestPackages = []string{"podman/experimental", "netavark/experimental", "golang-github-containers-common/experimental"}

// rootRecipe changes when a root is built in another way from the same packages.
const rootRecipe = "1"

// Root is the unpacked file system of a Debian suite. Machines share it and
// never write to it.
type Root struct {
	Suite string
	dir   string
	lab   *Lab
}

// Root returns the root of a suite, with the packages that are named in place of
// those that devices and tests need. The first call builds it (about 30 s and
// 320 MB) with mmdebstrap from the mirrors that apt uses here; the archive is
// kept, by suite and list of packages.
func (l *Lab) Root(ctx context.Context, suite string, packages ...string) (*Root, error) {
	if !slices.Contains([]string{Trixie, Bookworm, Sid}, suite) {
		return nil, fmt.Errorf("unknown suite %q: use %s, %s or %s", suite, Trixie, Bookworm, Sid)
	}
	unlock, err := lockDir(l.rootsDir(), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock.Close()
	if len(packages) == 0 {
		packages = slices.Clone(rootPackages)
		if suite == Sid {
			packages = append(packages, newestPackages...)
		}
	}
	dir := filepath.Join(l.rootsDir(), suite+"-"+rootKey(suite, packages))
	if err := l.ensureRoot(ctx, suite, packages, dir); err != nil {
		return nil, fmt.Errorf("building the root of %s: %w", suite, err)
	}
	return &Root{Suite: suite, dir: dir, lab: l}, nil
}

func rootKey(suite string, packages []string) string {
	sum := sha256.Sum256([]byte(rootRecipe + "\n" + suite + "\n" + strings.Join(packages, "\n")))
	return hex.EncodeToString(sum[:6])
}

func (l *Lab) ensureRoot(ctx context.Context, suite string, packages []string, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	archive := dir + ".tar"
	if _, err := os.Stat(archive); errors.Is(err, fs.ErrNotExist) {
		if err := l.buildArchive(ctx, suite, packages, archive); err != nil {
			return err
		}
	}
	return l.unpack(ctx, archive, dir)
}

func (l *Lab) buildArchive(ctx context.Context, suite string, packages []string, archive string) error {
	return l.build(fmt.Sprintf("a Debian %s root (about 30 s)", suite), archive, func(partial string) error {
		return bootstrap(ctx, suite, packages, partial)
	})
}

// build has an archive made under another name, and gives it its own when it is whole.
func (l *Lab) build(what, archive string, fill func(partial string) error) error {
	start := time.Now()
	l.printf("building %s", what)
	partial := strings.TrimSuffix(archive, ".tar") + ".partial.tar"
	if err := fill(partial); err != nil {
		return err
	}
	if err := os.Rename(partial, archive); err != nil {
		return fmt.Errorf("storing the archive: %w", err)
	}
	l.printf("built it in %s", time.Since(start).Round(time.Second))
	return nil
}

// bootstrap makes an archive of a root with mmdebstrap.
func bootstrap(ctx context.Context, suite string, packages []string, archive string, options ...string) error {
	if suite == Sid {
		// A mirror of snapshots has Release files that are older than they are valid.
		options = append(options, `--aptopt=Acquire::Check-Valid-Until "false"`)
	}
	args := append(options, "--quiet", "--variant=minbase", "--format=tar", `--aptopt=Apt::Install-Recommends "false"`,
		"--include="+strings.Join(packages, ","), suite, archive)
	return runTool(ctx, "mmdebstrap", append(args, sources(ctx, suite)...)...)
}

func (l *Lab) unpack(ctx context.Context, archive, dir string) error {
	l.printf("unpacking %s", filepath.Base(archive))
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return fmt.Errorf("removing a partial root: %w", err)
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return fmt.Errorf("creating a root: %w", err)
	}
	if err := runTool(ctx, "tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--file", archive, "--directory", partial); err != nil {
		return err
	}
	if err := os.Rename(partial, dir); err != nil {
		return fmt.Errorf("storing a root: %w", err)
	}
	return nil
}

// sources returns the lines of sources.list for a suite, with the mirrors that
// this host's apt uses for Debian and Debian's own when it uses none.
func sources(ctx context.Context, suite string) []string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)").Output()
	if err != nil {
		out = nil // no apt here, or no sources: Debian's own mirror serves
	}
	uris := strings.Fields(string(out))
	mirror, ok := firstWithSuffix(uris, "/debian")
	if !ok {
		mirror = "http://deb.debian.org/debian"
	}
	if suite == Sid {
		return []string{fmt.Sprintf("deb %s sid main", mirror), fmt.Sprintf("deb %s experimental main", mirror)}
	}
	lines := []string{fmt.Sprintf("deb %s %s main", mirror, suite)}
	if security, ok := firstWithSuffix(uris, "/debian-security"); ok {
		lines = append(lines, fmt.Sprintf("deb %s %s-security main", security, suite))
	}
	return lines
}

func firstWithSuffix(uris []string, suffix string) (string, bool) {
	i := slices.IndexFunc(uris, func(uri string) bool { return strings.HasSuffix(strings.TrimRight(uri, "/"), suffix) })
	if i < 0 {
		return "", false
	}
	return uris[i], true
}

// runTool runs a program of the host and puts the end of its output in the error.
func runTool(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w: %s", name, err, lastLine(out))
	}
	return nil
}
