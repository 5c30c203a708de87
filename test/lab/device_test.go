//go:build linux

package lab_test

import (
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
