//go:build linux

package lab_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"fleet.nationtech.io/fleet/test/lab"
)

func TestNetworkJoinsMachinesAndServer(t *testing.T) {
	t.Parallel()
	l := open(t)
	n := network(t)
	one := boot(t, l, lab.Config{Name: "net-one", Network: n})
	two := boot(t, l, lab.Config{Name: "net-two", Network: n})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "page"), []byte("from the server"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	server := n.Server.Command(ctx, "busybox", "httpd", "-f", "-p", n.Server.Addr.String()+":9000", "-h", dir)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = server.Wait() // it was killed
	})
	for _, m := range []*lab.Machine{one, two} {
		eventually(t, m.Name+" reaches the server", func() bool {
			r, err := m.Run(t.Context(), "curl", "-sS", "http://"+n.Server.Addr.String()+":9000/page")
			return err == nil && r.Stdout == "from the server"
		})
	}
	if err := two.Link.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	cut, err := two.Run(t.Context(), "curl", "-sS", "--max-time", "1", "http://"+n.Server.Addr.String()+":9000/page")
	if err != nil || cut.ExitCode == 0 {
		t.Errorf("a machine without cable: got %+v, %v", cut, err)
	}
	lossyCable(t, one, "http://"+n.Server.Addr.String()+":9000/page")
}

// lossyCable checks that nothing comes through when all is lost, that all comes in the end
// when a third is, and that the whole cable is back afterwards.
func lossyCable(t *testing.T, m *lab.Machine, url string) {
	t.Helper()
	fetch := func() int {
		r, err := m.Run(t.Context(), "curl", "-sS", "-o", "/dev/null", "--max-time", "30", "--connect-timeout", "1", url)
		if err != nil {
			t.Fatal(err)
		}
		return r.ExitCode
	}
	again := func() string {
		out, err := m.Output(t.Context(), "awk", "$1 == \"Tcp:\" { n = $13 } END { print n }", "/proc/net/snmp")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for share, requests := range map[float64]int{1: 2, 0.3: 6} {
		heal, err := m.Link.Lossy(t.Context(), share)
		if err != nil {
			t.Fatal(err)
		}
		before, ok := again(), 0
		for range requests {
			if fetch() == 0 {
				ok++
			}
		}
		if share == 1 && ok > 0 || share < 1 && (ok == 0 || again() == before) {
			t.Errorf("of %d requests on a cable that loses %.1f of the frames %d were answered, and %s then %s segments sent again", requests, share, ok, before, again())
		}
		if err := heal(); err != nil {
			t.Fatal(err)
		}
		if code := fetch(); code != 0 {
			t.Errorf("on the whole cable curl ends with %d", code)
		}
	}
}

func TestDialInNamespace(t *testing.T) {
	t.Parallel()
	open(t)
	n := network(t)
	if _, err := n.Server.DialContext(t.Context(), "tcp", net.JoinHostPort(n.Server.Addr.String(), "9")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialing a closed port: got error %v, want a refusal", err)
	}
	if _, err := n.Server.DialContext(t.Context(), "tcp", "localhost:9"); err == nil || !strings.Contains(err.Error(), "localhost") {
		t.Errorf("dialing a name: got error %v, want one that names it", err)
	}
}
