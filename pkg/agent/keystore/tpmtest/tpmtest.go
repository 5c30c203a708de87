// Package tpmtest starts software TPMs. It is for tests only.
package tpmtest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Start starts a TPM that a test has for itself, and returns its socket. Without
// swtpm the test is skipped, and fails where CI=true.
func Start(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("swtpm")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("swtpm is not installed: tools/install-packages.sh installs it")
	}
	if err != nil {
		t.Skip("swtpm is not installed: apt-get install swtpm")
	}
	dir, err := os.MkdirTemp("", "tpm") // short: the path of a socket has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "sock")
	cmd := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
		"--flags", "not-need-init,startup-clear")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	await(t, socket, ended, &output)
	return socket
}

// await waits until the TPM listens.
func await(t *testing.T, socket string, ended <-chan struct{}, output *strings.Builder) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", socket); err == nil { // the socket is there before anybody listens
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("swtpm ended: %s", output)
		case <-tick.C:
		}
	}
}
