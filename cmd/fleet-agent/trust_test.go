package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestTrustRegistry(t *testing.T) {
	t.Parallel()
	if trustRegistry("", nil) != nil {
		t.Error("without a directory there is something to do")
	}
	dir := t.TempDir()
	root := "first"
	trust := trustRegistry(dir, func() string { return root })
	for _, registry := range []string{"gw:8443", "10.0.0.1:8443", "[2001:db8::1]:8443"} {
		for _, root = range []string{"first", "second"} {
			if err := trust(registry); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "certs.d", registry, "ca.crt"))
			if err != nil || string(got) != root {
				t.Errorf("%s has %q, %v", registry, got, err)
			}
		}
	}
	// Another account reads it.
	for path, want := range map[string]os.FileMode{"certs.d": 0o755, "certs.d/gw:8443": 0o755, "certs.d/gw:8443/ca.crt": 0o644} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	for _, bad := range []string{"", "gw", "../x:1", "gw/..:1", "/etc:1", ".:1", "gw:8443/x", "gw:"} {
		if err := trust(bad); err == nil {
			t.Errorf("%q is a registry", bad)
		}
	}
}

// TestRegistriesAreBounded: a gateway chooses their names, and the directory is
// in memory.
func TestRegistriesAreBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	trust := trustRegistry(dir, func() string { return "root" })
	failed := 0
	for port := range 2 * maxRegistries {
		if trust(fmt.Sprintf("gw:%d", port+1)) != nil {
			failed++
		}
	}
	if failed != maxRegistries {
		t.Errorf("%d of %d registries are refused", failed, 2*maxRegistries)
	}
	if err := trust("gw:1"); err != nil {
		t.Errorf("one that is known is refused: %v", err)
	}
}
