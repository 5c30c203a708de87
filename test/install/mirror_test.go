//go:build linux

package install_test

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// proxy is an HTTP proxy that knows one web server, whatever it is called.
type proxy struct {
	*httptest.Server

	server string

	mu    sync.Mutex // guards asked
	asked []string
}

func newProxy(t *testing.T, server string) *proxy {
	t.Helper()
	p := &proxy{server: server}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// hosts are those that it was asked for.
func (p *proxy) hosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.asked)
	return slices.Compact(p.asked)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host)
	p.mu.Unlock()
	there, err := net.Dial("tcp", p.server)
	if err != nil || r.Method != http.MethodConnect {
		http.Error(w, "not here", http.StatusBadGateway)
		return
	}
	defer there.Close()
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	_, _ = io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n") // who asked sees it end
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(here, there)
		_ = here.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it is one of the server above
	})
	_, _ = io.Copy(there, buffered)
	_ = there.(*net.TCPConn).CloseWrite() //nolint:forcetypeassert // it was dialled as one
	back.Wait()
}

// TestMirrorBehindAProxy reaches a mirror, whose certificate is of an authority
// that nobody knows, through a proxy alone: the script, and what fetches the
// release for the devices.
func TestMirrorBehindAProxy(t *testing.T) {
	t.Parallel()
	r := makeReleases(t, first)
	files := http.FileServer(http.Dir(filepath.Join(r.dir, first)))
	mux := http.NewServeMux()
	mux.Handle("/fleet/stable/", http.StripPrefix("/fleet/stable", files))
	mux.Handle("/fleet/"+r.version("1")+"/", http.StripPrefix("/fleet/"+r.version("1"), files))
	mirror := httptest.NewUnstartedServer(mux)
	mirror.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that clients end
	mirror.StartTLS()
	t.Cleanup(mirror.Close)
	p := newProxy(t, mirror.Listener.Addr().String())
	dir := t.TempDir()
	ca, key, data := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "release.pub"), filepath.Join(dir, "data")
	err := errors.Join(
		os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: mirror.Certificate().Raw}), 0o600),
		os.WriteFile(key, r.publicKey(t), 0o600),
		os.Mkdir(data, 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	const address = "https://mirror.example.com/fleet"
	script := []string{"sh", filepath.Join(r.dir, first, "install.sh"), "--role", "server", "--mirror", address, "--packages", "none", "--dry-run"}
	program := []string{"../../bin/fleet-server", "bundle", "import", "--data-dir", data, "--release-key", key, address + "/" + r.version("1")}
	for _, tt := range []struct {
		name, proxy string
		args        []string
		status      int
		says        string
	}{
		{"script", p.URL, append(script, "--ca-file", ca), 0, "would run: "},
		{"script without the proxy", "", append(script, "--ca-file", ca), 8, "check address, proxy, CA and clock"},
		{"script without the CA", p.URL, script, 8, "check address, proxy, CA and clock"},
		{"program without the proxy", "", append(program, "--ca-file", ca), 1, "check address, proxy, CA and clock"},
		{"program without the CA", p.URL, program, 1, "check address, proxy, CA and clock"},
		{"program", p.URL, append(program, "--ca-file", ca), 0, "release " + r.version("1") + " is served from now on"},
	} {
		cmd := exec.CommandContext(t.Context(), tt.args[0], tt.args[1:]...)
		cmd.Env = append(os.Environ(), "https_proxy="+tt.proxy, "no_proxy=")
		out, err := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != tt.status || !strings.Contains(string(out), tt.says) {
			t.Errorf("%s: status %d, want %d and %q: %v\n%s", tt.name, status, tt.status, tt.says, err, out)
		}
	}
	if hosts := p.hosts(); !slices.Equal(hosts, []string{"CONNECT mirror.example.com:443"}) {
		t.Errorf("the proxy was asked for %q", hosts)
	}
}
