//go:build linux

// Package install_test runs install.sh with the programs as they are built, on
// machines with systemd that reach no mirror. install.bats beside it has the
// script alone. `make test-e2e` builds the programs first.
package install_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a machine that sees the releases in /release.
type host struct {
	*testing.T
	*lab.Machine
}

func newHost(t *testing.T, suite string, r *releases) *host {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Options{Progress: t.Output()})
	if errors.Is(err, lab.ErrUnsupported) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := lab.NewNetwork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := l.Boot(t.Context(), lab.Config{
		Name: "install-" + suite, Suite: suite, Network: n, Binds: []lab.Bind{{Source: r.dir, Target: "/release", ReadOnly: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{T: t, Machine: m}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			log, err := m.Run(ctx, "journalctl", "--no-pager", "-n", "40", "-u", "fleet-server", "-u", "fleet-agent")
			t.Logf("journal (%v):\n%s", err, log.Stdout)
		}
		if err := m.Destroy(ctx); err != nil {
			t.Error(err)
		}
	})
	return h
}

// sh runs a script, which has to end with a status, and returns what it prints.
func (h *host) sh(status int, script string) string {
	h.Helper()
	r, err := h.Machine.Run(h.Context(), "sh", "-euc", script)
	if err != nil {
		h.Fatal(err)
	}
	if r.ExitCode != status {
		h.Fatalf("%s\nended with status %d, not %d:\n%s%s", script, r.ExitCode, status, r.Stdout, r.Stderr)
	}
	return r.Stdout + r.Stderr
}

// install runs the install.sh of a release, with its bundle and without a
// network.
func (h *host) install(status int, release, flags string) string {
	h.Helper()
	return h.sh(status, fmt.Sprintf("unshare -n sh /release/%s/install.sh --bundle /release/%s.tar %s", release, release, flags))
}

func (h *host) says(output, text string) {
	h.Helper()
	if !strings.Contains(output, text) {
		h.Errorf("it does not say %q:\n%s", text, output)
	}
}

// same fails when a command prints something else than before.
func (h *host) same(before, script string) {
	h.Helper()
	if now := h.sh(0, script); now != before {
		h.Errorf("%s\nprinted\n%snow\n%s", script, before, now)
	}
}

func (h *host) eventually(what string, check func() error) {
	h.Helper()
	wait.For(h.T, what, 90*time.Second, 100*time.Millisecond, check)
}

// Scripts that tests compare the output of.
const (
	// pid is the same for as long as a service is not restarted.
	pid = "systemctl show --property=MainPID fleet-server"
	// written is what the installation may write, but for data.
	written = `find /etc /usr/bin /usr/lib /usr/local /var/lib/fleet-install -xdev -type f -path '*fleet*' -print0 | sort -z | xargs -0 sha256sum`
	// root is who the server is.
	root = "sha256sum </var/lib/fleet-server/pki/root.crt"
)
