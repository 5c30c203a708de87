//go:build linux

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/pkg/release/signing"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/releasetest"
	"fleet.nationtech.io/fleet/test/wait"
)

// gatewayImage is part of the life of a device: a real podman pulls from the
// registry of its gateway, with credentials that the agent fetched.
func (s *site) gatewayImage() {
	image := s.gatewayHas("team/app:1")
	registry, _, _ := strings.Cut(image, "/")
	s.apply("pulled", fmt.Sprintf("{name: web, image: %q}", image))
	s.aggregate("pulled", counts{1, 1, 0, 0})
	s.containers("default_hello_web", "default_pulled_web")
	s.kubectl("delete", "fleetdep", "pulled")
	s.containers("default_hello_web")
	s.podman("image", "rm", image)
	// The account of the workload trusts the registry, and has no credentials.
	r, err := s.machine.RunAs(s.t.Context(), lab.WorkloadUser, "podman", "pull", image)
	s.must(err)
	if r.ExitCode == 0 || !strings.Contains(r.Stderr, "unauthorized") && !strings.Contains(r.Stderr, "authentication required") {
		s.t.Errorf("without credentials podman says %d %q", r.ExitCode, r.Stderr)
	}
	// An image that the gateway lacks.
	s.apply("pulled", fmt.Sprintf("{name: web, image: '%s/team/none:1'}", registry))
	d := s.aggregate("pulled", counts{1, 0, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || !strings.Contains(e.Message, "manifest unknown") {
		s.t.Errorf("lastError is %+v, want podman's message", e)
	}
	s.kubectl("delete", "fleetdep", "pulled")
	s.containers("default_hello_web")
}

// withDnf is what a trixie machine has on which both package managers work.
var withDnf = []string{
	"podman", "passt", "ca-certificates", "crun", "dbus-user-session", "fuse-overlayfs", "libpam-systemd", "passwd", "systemd", "uidmap",
	"systemd-sysv", "busybox-static", "dnf", "rpm",
}

// Where a shop's machine has the agent, which comes from no package, and what the
// packages are called.
const agentProgram, packageName = "/root/fleet-agent", "fleet-agent"

// shop is a gateway with a release and a machine that gets packages from it.
type shop struct {
	*lab.Machine
	t      *testing.T
	server *process.Server
	dir    string
	maker  *releasetest.Maker
	host   string
}

func newShop(t *testing.T, suite string, packages ...string) *shop {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Options{Progress: t.Output()})
	if errors.Is(err, lab.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	s := &shop{t: t, dir: t.TempDir()}
	s.must(err)
	network, err := lab.NewNetwork(t.Context())
	s.must(err)
	t.Cleanup(func() { s.must(network.Close()) })
	s.server, err = process.StartServer(t.Context(), process.Config{
		Binary: binary(t, "fleet-server"), DataDir: s.dir, Host: network.Server.Addr.String(), Command: network.Server.Command,
	})
	s.must(err)
	t.Cleanup(func() { s.must(s.server.Stop()) })
	s.host = strings.TrimPrefix(s.server.EnrollURL, "https://")
	s.Machine, err = l.Boot(t.Context(), lab.Config{Name: "shop-" + suite, Suite: suite, Network: network, Packages: packages})
	s.must(err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.must(s.Destroy(ctx))
	})
	s.maker, err = releasetest.NewMaker()
	s.must(err)
	s.serve("1.0.0", nil)
	agent, err := os.Open(binary(t, "fleet-agent"))
	s.must(err)
	defer agent.Close()
	s.must(s.WriteFile(t.Context(), agentProgram, agent, 0o755))
	return s
}

func (s *shop) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// serve imports a release of a version, after a change to its files.
func (s *shop) serve(version string, change func(files map[string][]byte), flags ...string) {
	s.t.Helper()
	files, err := s.maker.Files(version)
	s.must(err)
	if change != nil {
		change(files)
		s.must(s.maker.Index(files))
	}
	dir := s.t.TempDir()
	s.must(s.maker.Write(dir, files))
	_, err = s.server.Run(s.t.Context(), "", slices.Concat([]string{"bundle", "import", "--release-key", filepath.Join(dir, "release.pub"), dir}, flags)...)
	s.must(err)
}

// addRepository makes the machine a device of the gateway.
func (s *shop) addRepository(manager string) {
	s.t.Helper()
	token, err := s.server.Run(s.t.Context(), "", "token", "create")
	s.must(err)
	parsed, err := wire.ParseToken(strings.TrimSpace(token))
	s.must(err)
	s.run(agentProgram, "add-repository", s.server.EnrollURL, "--ca-hash", parsed.CAHash.String(), "--manager", manager)
}

// yesterday is the clock of somebody who signed the metadata long ago.
type yesterday struct{ time.Time }

func (y yesterday) Now() time.Time { return y.Time }
func (yesterday) Sane() error      { return nil }

// whenExpired runs what must fail while the metadata have expired. The server
// renews them within a minute, so it is done again if that was quicker.
func (s *shop) whenExpired(what, says string, args ...string) {
	s.t.Helper()
	store := release.Open(s.dir)
	for {
		until, err := store.Renew(yesterday{time.Now().AddDate(0, 0, -40)})
		s.must(err)
		r, err := s.Run(s.t.Context(), args...)
		s.must(err)
		if again, err := store.Renew(yesterday{until.AddDate(0, 0, -25)}); err != nil || !again.IsZero() {
			continue // the server was quicker
		}
		if r.ExitCode == 0 || !strings.Contains(r.Stdout+r.Stderr, says) {
			s.t.Errorf("%s: %v ends with %d:\n%s%s", what, args, r.ExitCode, r.Stdout, r.Stderr)
		}
		return
	}
}

// tamper changes files that are served, and returns how to change them back.
func (s *shop) tamper(patterns ...string) (restore func()) {
	s.t.Helper()
	var undo []func()
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(s.dir, "release", "current", "www", pattern))
		s.must(err)
		if len(found) == 0 {
			s.t.Fatalf("there is no %s", pattern)
		}
		for _, path := range found {
			data, err := os.ReadFile(path)
			s.must(err)
			changed := slices.Clone(data)
			changed[len(changed)/2] ^= 1
			s.replace(path, changed)
			undo = append(undo, func() { s.replace(path, data) })
		}
	}
	return func() {
		for _, u := range undo {
			u()
		}
	}
}

// replace replaces a file, which may be linked from elsewhere, and keeps its
// time.
func (s *shop) replace(path string, data []byte) {
	s.t.Helper()
	info, err := os.Stat(path)
	s.must(err)
	s.must(os.Remove(path))
	s.must(os.WriteFile(path, data, 0o644))
	s.must(os.Chtimes(path, info.ModTime(), info.ModTime()))
}

func (s *shop) run(args ...string) string {
	s.t.Helper()
	out, err := s.Output(s.t.Context(), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// refuses runs what must fail and say so.
func (s *shop) refuses(what, says string, args ...string) {
	s.t.Helper()
	r, err := s.Run(s.t.Context(), args...)
	s.must(err)
	if r.ExitCode == 0 || !strings.Contains(r.Stdout+r.Stderr, says) {
		s.t.Errorf("%s: %v ends with %d:\n%s%s", what, args, r.ExitCode, r.Stdout, r.Stderr)
	}
}

func (s *shop) installed(want string) {
	s.t.Helper()
	if got := strings.TrimSpace(s.run("cat", releasetest.VersionFile(packageName))); got != want {
		s.t.Errorf("version %q is installed, want %q", got, want)
	}
}

func (s *shop) write(path, content string) {
	s.t.Helper()
	s.must(s.WriteFile(s.t.Context(), path, io.Reader(strings.NewReader(content)), 0o644))
}

// apt goes through the life of a package.
func (s *shop) apt() {
	s.addRepository("apt")
	s.write("/etc/apt/apt.conf.d/60only", `Dir::Etc::SourceList "/etc/apt/sources.list.d/fleet-gateway.sources"; Dir::Etc::SourceParts "/dev/null"; Acquire::Retries "0"; APT::Update::Error-Mode "any";`+"\n")
	update, install := []string{"apt-get", "update"}, []string{"apt-get", "install", "--yes", packageName}
	s.run(update...)
	forget := func() { s.run("find", "/var/lib/apt/lists", "-type", "f", "-delete") }
	forget()
	for _, tt := range []struct {
		what     string
		patterns []string
	}{
		{"index", []string{"apt/dists/stable/main/binary-*/Packages*", "apt/dists/stable/main/binary-*/by-hash/SHA256/*"}},
		{"signed index", []string{"apt/dists/stable/InRelease"}},
	} {
		restore := s.tamper(tt.patterns...)
		s.refuses(tt.what, "E: ", update...)
		restore()
		// What it refused has the length and the time of the right one: apt would
		// take that for a download that is complete.
		forget()
	}
	s.run(update...)
	restore := s.tamper("apt/pool/*.deb")
	s.refuses("package", "Hash Sum mismatch", install...)
	restore()
	forget()
	s.run(update...)
	s.run(install...)
	s.installed("1.0.0")
	replay := s.record()
	s.serve("1.1.0+dev.2", nil)
	s.run(update...)
	s.run("apt-get", "upgrade", "--yes")
	s.installed("1.1.0+dev.2")
	s.aptReplay(replay, update)
	s.aptOthers(update)
	s.run("apt-get", "purge", "--yes", packageName)
	// Without the root of the site nothing is believed.
	s.run("rm", "/etc/apt/apt.conf.d/50fleet-gateway")
	s.refuses("another authority", "E: ", update...)
	s.run("rm", "/etc/apt/apt.conf.d/60only")
}

// record keeps what is served now, and returns who serves it again.
func (s *shop) record() (replay func() (restore func())) {
	s.t.Helper()
	store := filepath.Join(s.dir, "release")
	kept := s.t.TempDir()
	s.must(os.CopyFS(filepath.Join(kept, "old"), os.DirFS(filepath.Join(store, "current"))))
	point := func(to string) {
		next := filepath.Join(store, "next")
		s.must(os.Symlink(to, next))
		s.must(os.Rename(next, filepath.Join(store, "current")))
	}
	return func() func() {
		now, err := os.Readlink(filepath.Join(store, "current"))
		s.must(err)
		s.must(os.CopyFS(filepath.Join(store, "1.0.0-replayed"), os.DirFS(filepath.Join(kept, "old"))))
		point("1.0.0-replayed")
		return func() { point(now) }
	}
}

// aptReplay: whoever plays old metadata, with an old package, to a device that
// has newer ones, changes nothing. When they have expired apt says so.
func (s *shop) aptReplay(replay func() func(), update []string) {
	restore := replay()
	s.run(update...)
	s.run("apt-get", "upgrade", "--yes")
	s.run("apt-get", "dist-upgrade", "--yes")
	s.installed("1.1.0+dev.2")
	if got := s.run("apt-cache", "policy", packageName); !strings.Contains(got, "Candidate: 1.1.0+dev.2") {
		s.t.Errorf("apt says %s", got)
	}
	restore()
	s.whenExpired("metadata of long ago", "expired", update...)
	wait.For(s.t, "the server renews its signatures", 2*time.Minute, time.Second, func() error {
		r, err := s.Run(s.t.Context(), update...)
		if err == nil && r.ExitCode != 0 {
			err = errors.New(r.Stderr)
		}
		return err
	})
}

// aptOthers: a gateway does not replace what the system is made of.
func (s *shop) aptOthers(update []string) {
	deb, err := releasetest.Deb("busybox-static", "99:1")
	s.must(err)
	s.serve("1.2.0", func(files map[string][]byte) { files["busybox-static_99_all.deb"] = deb })
	s.run(update...)
	if got := s.run("apt-get", "--dry-run", "dist-upgrade"); strings.Contains(got, "busybox") || !strings.Contains(got, "Inst "+packageName) {
		s.t.Errorf("apt would do\n%s", got)
	}
	// The control: apt sees it.
	if got := s.run("apt-get", "--dry-run", "-o", "Dir::Etc::PreferencesParts=/dev/null", "dist-upgrade"); !strings.Contains(got, "Inst busybox-static") {
		s.t.Errorf("without preferences apt would do\n%s", got)
	}
}

// dnf goes through the life of a package.
func (s *shop) dnf() {
	s.serve("1.0.0", nil, "--allow-downgrade")
	s.addRepository("dnf")
	dnf := func(args ...string) []string {
		return append([]string{"dnf", "--assumeyes", "--disablerepo=*", "--enablerepo=fleet-gateway"}, args...)
	}
	clean := func() { s.run(dnf("clean", "all")...) }
	install := dnf("install", packageName)
	for pattern, says := range map[string]string{"rpm/*/repodata/*-primary.xml.gz": "checksum doesn't match", "rpm/*/*.rpm": "checksum doesn't match"} {
		clean()
		restore := s.tamper(pattern)
		s.refuses(pattern, says, install...)
		restore()
	}
	clean()
	s.run(install...)
	s.installed("1.0.0")
	replay := s.record()
	s.serve("1.1.0+dev.2", nil)
	clean()
	s.run(dnf("upgrade", packageName)...)
	s.installed("1.1.0+dev.2")
	// dnf takes metadata that are older than what it has; it goes back to an older
	// package only when it is told to.
	restore := replay()
	clean()
	s.run(dnf("upgrade")...)
	s.installed("1.1.0+dev.2")
	restore()
	s.dnfSignedIndex(dnf, clean)
	s.dnfOfATurncoat(dnf, clean)
	s.run(dnf("remove", packageName)...)
}

// dnfSignedIndex: an index that the maker did not sign is not believed, not even
// when the gateway signed it.
func (s *shop) dnfSignedIndex(dnf func(...string) []string, clean func()) {
	check := dnf("--setopt=fleet-gateway.skip_if_unavailable=0", "--refresh", "makecache")
	clean()
	s.run(check...)
	clean()
	restore := s.tamper("rpm/*/repodata/repomd.xml")
	s.refuses("repomd.xml", "Bad GPG signature", check...)
	restore()
	clean()
	found, err := filepath.Glob(filepath.Join(s.dir, "release", "current", "www", "rpm", "*", "repodata", "repomd.xml"))
	s.must(err)
	index, err := os.ReadFile(found[0])
	s.must(err)
	key, err := signing.Load(filepath.Join(s.dir, "release", "signing-key.asc"), time.Now())
	s.must(err)
	signature, err := key.Detached(index)
	s.must(err)
	makers, err := os.ReadFile(found[0] + ".asc")
	s.must(err)
	s.replace(found[0]+".asc", signature)
	s.refuses("an index that the gateway signed", "GPG", check...)
	s.replace(found[0]+".asc", makers)
	clean()
	s.run(check...)
	clean()
}

// dnfOfATurncoat: what the gateway signs itself is no package, nor is one of
// another maker, and no other package comes from it.
func (s *shop) dnfOfATurncoat(dnf func(...string) []string, clean func()) {
	key, err := os.ReadFile(filepath.Join(s.dir, "release", "signing-key.asc"))
	s.must(err)
	itself, err := s.maker.SignedBy(key)
	s.must(err)
	other, err := releasetest.NewMaker()
	s.must(err)
	for i, m := range []*releasetest.Maker{itself, other} {
		version := fmt.Sprintf("2.%d.0", i)
		rpm, err := m.RPM(packageName, version)
		s.must(err)
		system, err := s.maker.RPM("fleet-system", version)
		s.must(err)
		s.serve(version, func(files map[string][]byte) {
			for name := range files {
				if strings.HasSuffix(name, ".rpm") {
					files[name] = rpm
					files[strings.Replace(name, packageName, "fleet-system", 1)] = system
				}
			}
		})
		clean()
		s.refuses("a package that the release's key did not sign", "GPG", dnf("upgrade", packageName)...)
		s.installed("1.1.0+dev.2")
		s.refuses("another package", "", dnf("install", "fleet-system")...)
		// The control: dnf sees it.
		if got := s.run(dnf("--disableexcludes=all", "repoquery", "fleet-system")...); !strings.Contains(got, "fleet-system") {
			s.t.Errorf("dnf sees %q", got)
		}
	}
	// The control: dnf believes a key that is in its list, whosesoever it is.
	key, err = os.ReadFile(filepath.Join(s.dir, "release", "current", "www", "gateway.asc"))
	s.must(err)
	s.write("/etc/gateway.asc", string(key))
	s.serve("2.2.0", func(files map[string][]byte) {
		rpm, err := itself.RPM(packageName, "2.2.0")
		s.must(err)
		for name := range files {
			if strings.HasSuffix(name, ".rpm") {
				files[name] = rpm
			}
		}
	})
	clean()
	s.run(dnf("--setopt=fleet-gateway.gpgkey=file:///etc/gateway.asc,file:///etc/pki/rpm-gpg/RPM-GPG-KEY-fleet-gateway", "upgrade", packageName)...)
	s.installed("2.2.0")
}

// TestRepositoriesOfAGateway is about real package managers, which get packages
// over TLS with the site's root and refuse what was tampered with.
func TestRepositoriesOfAGateway(t *testing.T) {
	t.Parallel()
	t.Run(lab.Trixie, func(t *testing.T) {
		t.Parallel()
		s := newShop(t, lab.Trixie, withDnf...)
		s.apt()
		s.dnf()
	})
	t.Run(lab.Bookworm, func(t *testing.T) {
		t.Parallel()
		s := newShop(t, lab.Bookworm)
		s.apt()
	})
}
