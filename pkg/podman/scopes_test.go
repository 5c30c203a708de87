package podman_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/podman"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// TestWatchConforms: with a real podman and a real kernel the end of a container is seen in
// its control group. Where the kernel tells nothing, which is the control, nobody is told.
func TestWatchConforms(t *testing.T) {
	path := socket(t)
	const image = "localhost/fleet-watch:1"
	importProgram(t, path, image, nil)
	connect := func(groups string) *podman.Client {
		c := podman.New(func() string { return path }, filepath.Join(t.TempDir(), "none.json"))
		t.Cleanup(c.Close)
		if groups != "" {
			c.SetGroups(groups)
		}
		return c
	}
	other := connect("")
	for _, tt := range []struct {
		service, groups string
		told            bool
	}{{"seen", "", true}, {"unseen", deaf(t, path), false}} {
		t.Run(tt.service, func(t *testing.T) {
			c := connect(tt.groups)
			ref := wire.DeploymentRef{Namespace: "watch", Name: tt.service}
			changes := begin(t, c)
			if !c.Watches() {
				t.Fatal("control groups are not watched")
			}
			id, err := c.Create(t.Context(), &container.Spec{Ref: ref, Service: "web", Image: image, Command: []string{"/" + program, "sleep"}, Restart: container.RestartNever})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = other.Clear(context.Background(), id) })
			if err := c.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time from memory
				if list, err := c.List(t.Context(), wire.DeploymentRef{}); err != nil || !runs(list, id) {
					t.Fatalf("it does not run: %+v, %v", list, err)
				}
			}
			drain(changes)
			began := time.Now()
			if err := other.Signal(t.Context(), id, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			told := false
			for limit := time.After(3 * time.Second); !told; {
				select {
				case got := <-changes:
					told = got == ref
					continue
				case <-limit:
				}
				break
			}
			t.Logf("told: %t, after %s", told, time.Since(began))
			if told != tt.told {
				t.Errorf("told: %t", told)
			}
			if list, err := c.List(t.Context(), ref); err != nil || tt.told && runs(list, id) {
				t.Errorf("a container that was killed runs: %+v, %v", list, err)
			}
		})
	}
}

// deaf is a directory that looks as if the kernel showed control groups there.
func deaf(t *testing.T, socket string) string {
	t.Helper()
	root := t.TempDir()
	manager, containers, err := podman.Account(socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{manager, containers} {
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// begin watches until the test ends.
func begin(t *testing.T, c *podman.Client) chan wire.DeploymentRef {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, ready, done := make(chan wire.DeploymentRef, 1000), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, func() { close(ready) }, func(ref wire.DeploymentRef) { changes <- ref })
	}()
	t.Cleanup(func() { cancel(); <-done })
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatal(err)
	}
	return changes
}

func drain(changes chan wire.DeploymentRef) {
	for limit := time.After(time.Second); ; { // what is being noted
		select {
		case <-changes:
		case <-limit:
			return
		}
	}
}

func runs(list []container.Container, id string) bool {
	for i := range list {
		if list[i].ID == id && list[i].State == container.StateRunning && !list[i].Gone {
			return true
		}
	}
	return false
}
