package api_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/test/process"
)

// The unit has Type=notify: what systemd starts after it must find everything.
func TestNotifiesSystemd(t *testing.T) {
	t.Parallel()
	s, l := startNotifying(t)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	// What was sent waits in the socket; the server is gone, so no more comes.
	var got []string
	for buf := make([]byte, 256); ; {
		_ = l.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // the socket is open
		n, err := l.Read(buf)
		if err != nil {
			break
		}
		got = append(got, string(buf[:n]))
	}
	if diff := cmp.Diff([]string{"READY=1", "STOPPING=1"}, got); diff != "" {
		t.Error(diff)
	}
}

// The unit's watchdog is served while the API answers.
func TestServesWatchdog(t *testing.T) {
	t.Parallel()
	s, l := startNotifying(t, "WATCHDOG_USEC=600000")
	if err := l.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// More than once: the first could be a promise.
	for seen, buf := 0, make([]byte, 256); seen < 3; {
		n, err := l.Read(buf)
		if err != nil {
			t.Fatalf("after %d times: %v", seen, err)
		}
		if string(buf[:n]) == "WATCHDOG=1" {
			seen++
		}
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}

// startNotifying starts a server and listens in the place of systemd.
func startNotifying(t *testing.T, env ...string) (*process.Server, *net.UnixConn) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s, err := process.StartServer(t.Context(), process.Config{
		Binary: binary(t), DataDir: t.TempDir(),
		Command: func(ctx context.Context, name string, args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, name, args...)
			cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+socket), env...)
			return cmd
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, l
}
