package helper_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper"
)

// monitor starts a shell that is called as podman's monitor of a container, with a child.
func monitor(t *testing.T, called string, args ...string) (ended <-chan struct{}) {
	t.Helper()
	shell, err := os.ReadFile("/bin/sh")
	path := filepath.Join(t.TempDir(), called)
	if err == nil {
		err = os.WriteFile(path, shell, 0o700)
	}
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Args = append([]string{called, "-s", "--"}, args...) // its commands come by its input
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	input, inputErr := cmd.StdinPipe()
	output, outputErr := cmd.StdoutPipe()
	if err := errors.Join(err, inputErr, outputErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(input, "sleep 1000 &\necho ready\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(output, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, output) // until the child, which has it too, has ended
		_ = cmd.Wait()                     // it was killed
		close(done)
	}()
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // it may have ended
		<-done
	})
	return done
}

func TestEndMonitor(t *testing.T) {
	t.Parallel()
	one, other := strings.Repeat("1a", 32), strings.Repeat("2b", 32)
	theirs := monitor(t, "conmon", "-c", one, "-u", other)
	foreign := []<-chan struct{}{monitor(t, "conmon", "-c", other), monitor(t, "another", "-c", one), monitor(t, "conmon", "-c", one, "-e")}
	c := serve(t, &helper.Server{})
	for _, want := range []bool{true, false} {
		if ended, err := c.EndMonitor(t.Context(), one); err != nil || ended != want {
			t.Errorf("got %v, %v", ended, err)
		}
		if want {
			<-theirs
		}
	}
	for i, f := range foreign {
		select {
		case <-f:
			t.Errorf("process %d was ended, too", i)
		default:
		}
	}
	for _, bad := range []string{"../../1", "1a", strings.Repeat("z", 64)} {
		if ended, err := c.EndMonitor(t.Context(), bad); ended || err == nil {
			t.Errorf("%q: %v, %v", bad, ended, err)
		}
	}
}
