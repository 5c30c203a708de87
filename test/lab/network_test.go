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
