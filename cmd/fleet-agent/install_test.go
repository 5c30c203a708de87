package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/hostinstall"
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

// TestKeysOfAGateway: apt gets the key of the index, dnf that of packages, and
// neither both, but from a gateway of before.
func TestKeysOfAGateway(t *testing.T) {
	t.Parallel()
	present := map[string]string{
		"/packages/gateway.asc": "gateway", "/packages/packages.asc": "packages", "/packages/keys.asc": "both",
		"/packages/mirror/stable/version": "1.2\n", "/packages/mirror/1.2/packages.asc": "packages",
	}
	for name, tt := range map[string]struct {
		missing  []string
		apt, dnf string
	}{
		"now":                       {nil, "gateway", "packages"},
		"a gateway of before":       {[]string{"/packages/gateway.asc", "/packages/packages.asc"}, "both", "packages"},
		"a release that signs none": {[]string{"/packages/packages.asc", "/packages/mirror/1.2/packages.asc"}, "gateway", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			for path, content := range present {
				mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, content) })
			}
			for _, path := range tt.missing {
				mux.HandleFunc("GET "+path, http.NotFound)
			}
			server := httptest.NewTLSServer(mux)
			t.Cleanup(server.Close)
			gateway, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			for manager, want := range map[string]string{"apt": tt.apt, "dnf": tt.dnf} {
				got, err := fetchKeys(t.Context(), hostinstall.Repository{Gateway: gateway, Manager: manager}, server.Certificate(), nil)
				if string(got) != want || (err == nil) != (want != "") {
					t.Errorf("%s gets %q, %v, want %q", manager, got, err, want)
				}
			}
		})
	}
}
