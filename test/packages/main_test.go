//go:build linux

// Package packages_test installs the packages as they are built, with the real
// apt, dpkg, dnf and rpm, on machines that have what the packages ask for and
// nothing else, and reach no mirror. `make test-e2e` builds the binaries first.
package packages_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	waitTimeout  = 90 * time.Second
	pollInterval = 100 * time.Millisecond

	oldVersion, newVersion = "1.0.0", "1.1.0~rc.1"

	releaseDir = "/release" // is dist in a machine
)

var dist string // has the release of each version in a directory of its name

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "fleet-packages-")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // apt and the server read it with rights of their own
		panic(err)
	}
	dist = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		os.RemoveAll(dir)
		os.Exit(status)
	}))
}

// debian and rpm name this machine's architecture.
var debian, rpmArch = map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "armhf"}[runtime.GOARCH],
	map[string]string{"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7hl"}[runtime.GOARCH]

func debFile(program, version string) string {
	return filepath.Join(dist, version, fmt.Sprintf("%s_%s_%s.deb", program, version, debian))
}

func rpmFile(program, version string) string {
	return filepath.Join(dist, version, fmt.Sprintf("%s-%s-1.%s.rpm", program, version, rpmArch))
}

// releases packs the binaries that `make build` made, as two versions.
var releases = sync.OnceValue(func() error {
	var g errgroup.Group
	for _, version := range []string{oldVersion, newVersion} {
		g.Go(func() error { return pack(version) })
	}
	return g.Wait()
})

func pack(version string) error {
	dir := filepath.Join(dist, version)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, program := range []string{"fleet-agent", "fleet-server"} {
		binary, err := os.ReadFile(filepath.Join("../../bin", program))
		if err != nil {
			return fmt.Errorf("%w: run make build first", err)
		}
		name := fmt.Sprintf("%s_%s_linux_%s", program, version, runtime.GOARCH)
		if err := os.WriteFile(filepath.Join(dir, name), binary, 0o755); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", "-C", "../../tools", "run", "./release", "-version", version, "-arches", debian, "-dir", dir)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1793491200")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packing: %w: %s", err, out)
	}
	return nil
}

// packed skips where machines cannot run, and has both releases otherwise.
func packed(t *testing.T) *lab.Lab {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Options{Progress: t.Output()})
	if errors.Is(err, lab.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err == nil {
		err = releases()
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What apt installs on each suite with the packages of fleet, without what is
// only recommended, beside what boots and what tests need.
var (
	dependencies = map[string][]string{
		lab.Bookworm: {"podman", "slirp4netns", "ca-certificates", "crun", "dbus-user-session", "fuse-overlayfs", "libpam-systemd", "passwd", "systemd", "uidmap"},
		lab.Trixie:   {"podman", "passt", "ca-certificates", "crun", "dbus-user-session", "fuse-overlayfs", "libpam-systemd", "passwd", "systemd", "uidmap"},
	}
	tools = map[string][]string{
		lab.Bookworm: {"systemd-sysv", "busybox-static"},
		lab.Trixie:   {"systemd-sysv", "busybox-static", "dnf", "rpm", "curl"},
	}
)

// machine is a booted machine and the test that uses it.
type machine struct {
	*lab.Machine
	t   *testing.T
	web *http.Client
}

func boot(t *testing.T, l *lab.Lab, name, suite string) *machine {
	t.Helper()
	network, err := lab.NewNetwork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := l.Boot(t.Context(), lab.Config{
		Name: name + "-" + suite, Suite: suite, Network: network, Packages: append(dependencies[suite], tools[suite]...),
		Binds: []lab.Bind{{Source: dist, Target: releaseDir, ReadOnly: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			r, err := m.Run(ctx, "journalctl", "--no-pager", "-n", "80")
			t.Logf("journal (%v):\n%s", err, r.Stdout)
		}
		if err := m.Destroy(ctx); err != nil {
			t.Error(err)
		}
	})
	web := &http.Client{Transport: &http.Transport{DialContext: network.Server.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	return &machine{Machine: m, t: t, web: web}
}

// run returns what a command prints, both streams; it has to succeed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	r, err := m.Run(m.t.Context(), args...)
	if err != nil || r.ExitCode != 0 {
		m.t.Fatalf("%s: exit status %d, %v\n%s%s", strings.Join(args, " "), r.ExitCode, err, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

func (m *machine) sh(script string) string {
	m.t.Helper()
	return m.run("sh", "-euc", script)
}

// fails is run for a command that must not succeed.
func (m *machine) fails(args ...string) string {
	m.t.Helper()
	r, err := m.Run(m.t.Context(), args...)
	if err != nil || r.ExitCode == 0 {
		m.t.Fatalf("%s: exit status %d, %v\n%s%s", strings.Join(args, " "), r.ExitCode, err, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

// as is run as another user.
func (m *machine) as(user string, args ...string) string {
	m.t.Helper()
	out, err := m.OutputAs(m.t.Context(), user, args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *machine) eventually(what string, check func() error) {
	m.t.Helper()
	wait.For(m.t, what, waitTimeout, pollInterval, check)
}

// apt runs apt-get as an administrator or unattended-upgrades would.
func (m *machine) apt(args ...string) string {
	m.t.Helper()
	return m.run(append([]string{"apt-get", "-y", "-q", "--no-install-recommends"}, args...)...)
}

// deb is the path in the machine of a package.
func deb(program, version string) string {
	return filepath.Join(releaseDir, version, filepath.Base(debFile(program, version)))
}

// story runs steps that build on each other.
func (m *machine) story(steps []step) {
	for _, s := range steps {
		ok := m.t.Run(s.name, func(t *testing.T) {
			whole := m.t
			m.t = t
			defer func() { m.t = whole }()
			s.run(m)
		})
		if !ok {
			return
		}
	}
}

type step struct {
	name string
	run  func(*machine)
}
