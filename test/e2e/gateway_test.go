//go:build linux

package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/releasetest"
)

// gatewayImage is part of the life of a device: a real podman pulls from the
// registry of its gateway, with credentials that the agent fetched.
func (s *site) gatewayImage() {
	archive, err := s.machine.Image(s.t.Context(), "registry.example.com/team/app:1")
	s.must(err)
	out, err := s.server.Run(s.t.Context(), "", "image", "push", archive)
	s.must(err)
	if out != "team/app:1\n" {
		s.t.Errorf("the image is called %q", out)
	}
	gateway, err := url.Parse(s.server.EnrollURL)
	s.must(err)
	image := gateway.Host + "/team/app:1"
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
	s.apply("pulled", fmt.Sprintf("{name: web, image: '%s/team/none:1'}", gateway.Host))
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

const packageName = "fleet-agent"

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
	s.serve("1.0.0")
	web := &http.Client{Transport: &http.Transport{
		DialContext: network.Server.DialContext, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // it is asked for the root
	}}
	for path, file := range map[string]string{"/v1/ca": "/etc/fleet-root.pem", "/packages/keys.asc": "/etc/fleet-keys.asc"} {
		r, err := web.Get(s.server.EnrollURL + path)
		s.must(err)
		s.must(s.WriteFile(t.Context(), file, r.Body, 0o644))
		s.must(r.Body.Close())
	}
	return s
}

func (s *shop) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// serve imports a release of a version.
func (s *shop) serve(version string) {
	s.t.Helper()
	files, err := s.maker.Files(version)
	s.must(err)
	dir := s.t.TempDir()
	s.must(s.maker.Write(dir, files))
	_, err = s.server.Run(s.t.Context(), "", "bundle", "import", "--release-key", filepath.Join(dir, "release.pub"), dir)
	s.must(err)
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
	host, _, _ := strings.Cut(s.host, ":")
	s.write("/etc/apt/fleet.sources", "Types: deb\nURIs: https://"+s.host+"/packages/apt\nSuites: stable\nComponents: main\nSigned-By: /etc/fleet-keys.asc\n")
	s.write("/etc/apt/apt.conf.d/50fleet", `Acquire::https::`+host+`::CaInfo "/etc/fleet-root.pem";`+"\n"+
		`Dir::Etc::SourceList "/etc/apt/fleet.sources"; Dir::Etc::SourceParts "/dev/null"; Acquire::Retries "0"; APT::Update::Error-Mode "any";`+"\n")
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
	s.serve("1.1.0+dev.2")
	s.run(update...)
	s.run("apt-get", "upgrade", "--yes")
	s.installed("1.1.0+dev.2")
	s.run("apt-get", "purge", "--yes", packageName)
	// Without the root of the site nothing is believed.
	s.run("rm", "/etc/apt/apt.conf.d/50fleet")
	s.refuses("another authority", "E: ", "apt-get", "-o", "Dir::Etc::SourceList=/etc/apt/fleet.sources", "-o", "Dir::Etc::SourceParts=/dev/null", "-o", "APT::Update::Error-Mode=any", "update")
}

// dnf goes through the life of a package.
func (s *shop) dnf() {
	s.serve("1.0.0")
	s.write("/etc/yum.repos.d/fleet.repo", "[fleet]\nname=fleet\nbaseurl=https://"+s.host+"/packages/rpm/$basearch/\n"+
		"gpgcheck=1\nrepo_gpgcheck=1\ngpgkey=file:///etc/fleet-keys.asc\nsslcacert=/etc/fleet-root.pem\nretries=1\n")
	dnf := func(args ...string) []string {
		return append([]string{"dnf", "--assumeyes", "--disablerepo=*", "--enablerepo=fleet"}, args...)
	}
	clean := func() { s.run(dnf("clean", "all")...) }
	install := dnf("install", packageName)
	for pattern, says := range map[string]string{
		"rpm/*/repodata/repomd.xml": "Bad GPG signature", "rpm/*/repodata/*-primary.xml.gz": "checksum doesn't match", "rpm/*/*.rpm": "checksum doesn't match",
	} {
		clean()
		restore := s.tamper(pattern)
		s.refuses(pattern, says, install...)
		restore()
	}
	clean()
	s.run(install...)
	s.installed("1.0.0")
	s.serve("1.1.0+dev.2")
	clean()
	s.run(dnf("upgrade", packageName)...)
	s.installed("1.1.0+dev.2")
	s.run(dnf("remove", packageName)...)
}

// A package that another maker signed is refused, although the gateway's
// metadata is good.
func (s *shop) dnfWithForeignPackage() {
	mine := s.maker
	other, err := releasetest.NewMaker()
	s.must(err)
	rpm, err := other.RPM(packageName, "2.0.0")
	s.must(err)
	files, err := mine.Files("2.0.0")
	s.must(err)
	for name := range files {
		if strings.HasSuffix(name, ".rpm") {
			files[name] = rpm
		}
	}
	dir := s.t.TempDir()
	s.must(mine.Write(dir, files))
	_, err = s.server.Run(s.t.Context(), "", "bundle", "import", "--release-key", filepath.Join(dir, "release.pub"), dir)
	s.must(err)
	s.run("dnf", "clean", "all")
	s.refuses("a foreign package", "GPG check FAILED", "dnf", "--assumeyes", "--disablerepo=*", "--enablerepo=fleet", "install", packageName)
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
		s.dnfWithForeignPackage()
	})
	t.Run(lab.Bookworm, func(t *testing.T) {
		t.Parallel()
		s := newShop(t, lab.Bookworm)
		s.apt()
	})
}
