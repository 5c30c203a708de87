package podman_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/podman"
)

// A podman that hangs, or that systemd starts over and over, takes connections.
func TestAPodmanThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "podman.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c := podman.New(func() string { return socket }, "")
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := c.Info(ctx)
		failed <- err
	}()
	select {
	case err := <-failed:
		if !errors.Is(err, container.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the call outlives its context")
	}
}
