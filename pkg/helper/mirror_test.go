package helper_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"fleet.nationtech.io/fleet/pkg/helper"
)

func TestPodmanIsToldOfMirrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "containers", "registries.conf.d", "50-fleet-mirror.conf")
	var reloads atomic.Int32
	client := serve(t, &helper.Server{Mirrors: file, Reload: func(context.Context) error { reloads.Add(1); return nil }})
	for _, want := range []bool{true, false} {
		changed, err := client.Mirror(t.Context(), "127.0.0.1:4000", []string{"docker.io", "a.example.com:5000"})
		if err != nil || changed != want {
			t.Errorf("changed is %t, want %t: %v", changed, want, err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const want = `# Written by fleet-agent at its pulls.

[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "127.0.0.1:4000/docker.io"

[[registry]]
prefix = "a.example.com:5000"
location = "a.example.com:5000"
[[registry.mirror]]
location = "127.0.0.1:4000/a.example.com__5000"
`
	if string(got) != want {
		t.Errorf("podman is told\n%s", got)
	}
	if n := reloads.Load(); n != 1 {
		t.Errorf("podman read it %d times", n)
	}
}

// What the agent may not ask is not written, whoever asks.
func TestMirrorsThatAreRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "mirror.conf")
	client := serve(t, &helper.Server{Mirrors: file, Reload: func(context.Context) error { return nil }})
	for _, address := range []string{"192.0.2.1:4000", "example.com:4000", "127.0.0.1", "127.0.0.1:4000/x\ny"} {
		if _, err := client.Mirror(t.Context(), address, []string{"docker.io"}); !errors.Is(err, helper.ErrUnavailable) {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, registry := range []string{"", "a b", "a\"\n[[registry]]", "a/b", strings.Repeat("a", 300)} {
		if _, err := client.Mirror(t.Context(), "127.0.0.1:4000", []string{registry}); !errors.Is(err, helper.ErrUnavailable) {
			t.Errorf("%q: %v", registry, err)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

// Podman that was not told because of a fault is told at the next request.
func TestPodmanIsToldAgainAfterAFault(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "mirror.conf")
	var reloads atomic.Int32
	client := serve(t, &helper.Server{Mirrors: file, Reload: func(context.Context) error {
		if reloads.Add(1) == 1 {
			return errors.New("no systemd")
		}
		return nil
	}})
	if _, err := client.Mirror(t.Context(), "127.0.0.1:4000", []string{"docker.io"}); err == nil || !strings.Contains(err.Error(), "no systemd") {
		t.Errorf("error is %v", err)
	}
	if changed, err := client.Mirror(t.Context(), "127.0.0.1:4000", []string{"docker.io"}); err != nil || !changed || reloads.Load() != 2 {
		t.Errorf("podman was told %d times, %t, %v", reloads.Load(), changed, err)
	}
}
