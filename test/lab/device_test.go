//go:build linux

package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/test/lab"
)

var suites = []string{lab.Trixie, lab.Bookworm}

// device boots a machine that is set up as the agent's package would, and has
// the hello image.
func device(t *testing.T, l *lab.Lab, c lab.Config) *lab.Machine {
	t.Helper()
	m := boot(t, l, c)
	if err := m.InstallAgent(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := m.LoadImage(t.Context(), lab.HelloImage); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSocketIsOpenToAgentOnly(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := device(t, l, lab.Config{Name: "socket-" + suite, Suite: suite, Network: network(t)})
			ping := []string{"curl", "-sS", "--unix-socket", lab.PodmanSocket, "http://d/v4.0.0/libpod/_ping"}
			if got := mustAs(t, m, lab.AgentUser, ping...); got != "OK" {
				t.Errorf("ping as %s: got %q, want OK", lab.AgentUser, got)
			}
			r, err := m.RunAs(t.Context(), "nobody", ping...)
			if err != nil {
				t.Fatal(err)
			}
			if r.ExitCode == 0 {
				t.Errorf("ping as nobody was answered: %q", r.Stdout)
			}
		})
	}
}

func TestContainerServesOnPublishedPort(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			n := network(t)
			m := device(t, l, lab.Config{Name: "serve-" + suite, Suite: suite, Network: n})
			mustAs(t, m, lab.WorkloadUser, "podman", "run", "--detach", "--name", "hello", "--restart", "always",
				"--publish", fmt.Sprintf("8081:%d", lab.HelloPort), lab.HelloImage)
			client := &http.Client{Transport: &http.Transport{DialContext: n.Server.DialContext, DisableKeepAlives: true}}
			url := fmt.Sprintf("http://%s:8081/", m.Address())
			eventually(t, "the container answers", func() bool { return fetch(client, url) == "Hello from "+lab.HelloImage+"\n" })

			if err := m.Link.Cut(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := must(t, m, "ip", "-br", "link", "show", "host0"); !strings.Contains(got, "NO-CARRIER") {
				t.Errorf("the machine doesn't see that its cable is out: %s", got)
			}
			if err := m.Link.Restore(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the container answers again", func() bool { return fetch(client, url) != "" })
		})
	}
}

// TestContainerAfterBoot starts a container again as the agent does: through
// the socket, which is there after every boot.
func TestContainerAfterBoot(t *testing.T) {
	t.Parallel()
	l := open(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			n := network(t)
			m := device(t, l, lab.Config{Name: "reboot-" + suite, Suite: suite, Network: n})
			podman := func(args ...string) {
				mustAs(t, m, lab.AgentUser, append([]string{"podman", "--remote", "--url", "unix://" + lab.PodmanSocket}, args...)...)
			}
			podman("run", "--detach", "--name", "hello", "--publish", fmt.Sprintf("8081:%d", lab.HelloPort), lab.HelloImage)
			client := &http.Client{Transport: &http.Transport{DialContext: n.Server.DialContext, DisableKeepAlives: true}}
			url := fmt.Sprintf("http://%s:8081/", m.Address())
			for _, again := range []func() error{
				func() error { return m.Reboot(t.Context()) },
				func() error { return errors.Join(m.PowerCut(t.Context()), m.Start(t.Context())) },
			} {
				if err := again(); err != nil {
					t.Fatal(err)
				}
				podman("start", "hello")
				eventually(t, "the container answers", func() bool { return fetch(client, url) != "" })
			}
		})
	}
}

// TestUnit proves that the hardened unit reaches podman's socket, with a
// program that does nothing else in place of the agent.
func TestUnit(t *testing.T) {
	t.Parallel()
	l := open(t)
	const dropIn = `[Service]
Type=oneshot
WatchdogSec=0
Restart=no
ExecStart=
ExecStart=/usr/bin/curl -sS --fail --output /var/lib/fleet-agent/pong --unix-socket ` + lab.PodmanSocket + ` http://d/v4.0.0/libpod/_ping
`
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			m := device(t, l, lab.Config{Name: "unit-" + suite, Suite: suite})
			if err := m.WriteFile(t.Context(), "/run/systemd/system/fleet-agent.service.d/probe.conf", strings.NewReader(dropIn), 0o644); err != nil {
				t.Fatal(err)
			}
			must(t, m, "install", "-D", "-m", "0644", "/dev/null", "/etc/fleet-agent/agent.yaml")
			must(t, m, "systemctl", "daemon-reload")
			must(t, m, "systemctl", "start", "fleet-agent")
			if got := must(t, m, "cat", "/var/lib/fleet-agent/pong"); got != "OK" {
				t.Errorf("got %q through the socket", got)
			}
			// The threshold is ten times the exposure level that is printed.
			must(t, m, "systemd-analyze", "security", "--no-pager", "--threshold=20", "fleet-agent.service")
		})
	}
}

func fetch(client *http.Client, url string) string {
	resp, err := client.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(body)
}

func network(t *testing.T) *lab.Network {
	t.Helper()
	n, err := lab.NewNetwork(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}
