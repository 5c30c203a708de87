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
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := process.StartServer(t.Context(), process.Config{
		Binary: binary(t), DataDir: t.TempDir(),
		Command: func(ctx context.Context, name string, args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, name, args...)
			cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
			return cmd
		},
	})
	if err != nil {
		t.Fatal(err)
	}
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
