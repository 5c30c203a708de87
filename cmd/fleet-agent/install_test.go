package main

import (
	"errors"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// TestAddRepository fetches what a repository needs, and says what it would
// write; what it writes is tested in pkg/hostinstall.
func TestAddRepository(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	token, err := wire.ParseToken(g.token)
	if err != nil {
		t.Fatal(err)
	}
	add := func(gateway, hash string) (string, error) {
		return h.run("", "add-repository", gateway, "--ca-hash", hash, "--manager", "apt", "--dry-run")
	}
	out, err := add(g.url, token.CAHash.String())
	if err != nil || !strings.Contains(out, "/etc/apt/sources.list.d/fleet-gateway.sources") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := add(g.url, strings.Repeat("ab", 32)); !errors.Is(err, enroll.ErrOtherServer) {
		t.Errorf("another root's hash: got %v, want ErrOtherServer", err)
	}
	if _, err := add(g.url, "abc"); err == nil || !strings.Contains(err.Error(), "--ca-hash") {
		t.Errorf("half a hash: got %v", err)
	}
	if _, err := add("http://gw:8443", token.CAHash.String()); !errors.Is(err, enroll.ErrServerURL) {
		t.Errorf("an address without TLS: got %v, want ErrServerURL", err)
	}
	g.noKeys.Store(true)
	if _, err := add(g.url, token.CAHash.String()); err == nil || !strings.Contains(err.Error(), "bundle import") {
		t.Errorf("a gateway without packages: got %v", err)
	}
}
