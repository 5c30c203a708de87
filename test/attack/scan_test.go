package attack_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/process"
)

// TestScanOfAFreshInstall looks at the server as shipped, right after its first
// start, the way an auditor would. It wants zero findings.
func TestScanOfAFreshInstall(t *testing.T) {
	t.Parallel()
	binary, err := filepath.Abs(filepath.Join("..", "..", "bin", "fleet-server"))
	must(t, err)
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	s, err := process.StartServer(t.Context(), process.Config{Binary: binary, DataDir: dir})
	must(t, err)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	token, err := s.Token(t.Context(), "--pre-approve")
	must(t, err)

	addrs, err := listeners(s.PID())
	must(t, err)
	if len(addrs) < 3 {
		t.Fatalf("it listens on %v, want API, devices and enrollment", addrs)
	}
	for _, addr := range addrs {
		t.Run(addr, func(t *testing.T) {
			scanBanner(t, addr)
			scanTLS(t, addr)
		})
	}
	t.Run("paths", func(t *testing.T) { scanPaths(t, s) })
	t.Run("default passwords", func(t *testing.T) { scanPasswords(t, s) })
	t.Run("files", func(t *testing.T) { scanFiles(t, dir) })
	t.Run("secrets", func(t *testing.T) { scanSecrets(t, s, dir, token) })
}

const listening = "0A" // TCP_LISTEN in /proc/net/tcp

// listeners are the TCP addresses that a process listens on.
func listeners(pid int) ([]string, error) {
	inodes, err := sockets(pid)
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6 here
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[3] != listening || !inodes[fields[9]] {
				continue
			}
			addr, err := parseAddr(fields[1])
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
			addrs = append(addrs, addr)
		}
		if err := errors.Join(lines.Err(), f.Close()); err != nil {
			return nil, err
		}
	}
	return addrs, nil
}

var socketLink = regexp.MustCompile(`^socket:\[(\d+)\]$`)

// sockets are the inodes of a process's sockets.
func sockets(pid int) (map[string]bool, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	inodes := map[string]bool{}
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if m := socketLink.FindStringSubmatch(link); m != nil {
			inodes[m[1]] = true
		}
	}
	return inodes, nil
}

// parseAddr reads an address of /proc/net/tcp: words in the machine's order.
func parseAddr(s string) (string, error) {
	host, port, ok := strings.Cut(s, ":")
	ip, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(ip)%4 != 0 {
		return "", fmt.Errorf("unexpected address %q", s)
	}
	for i := 0; i < len(ip); i += 4 {
		ip[i], ip[i+1], ip[i+2], ip[i+3] = ip[i+3], ip[i+2], ip[i+1], ip[i]
	}
	addr := net.IP(ip)
	if addr.IsUnspecified() {
		addr = net.IPv4(127, 0, 0, 1)
	}
	return net.JoinHostPort(addr.String(), fmt.Sprint(n)), nil
}

func TestParseAddr(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"0100007F:1F90": "127.0.0.1:8080", "00000000000000000000000000000000:0050": "127.0.0.1:80", "0000000000000000FFFF00000100007F:0050": "127.0.0.1:80",
	} {
		if got, err := parseAddr(s); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", s, got, err, want)
		}
	}
}

// scanBanner: whoever speaks first says nothing in clear, and nothing that is
// not TLS is answered in clear.
func scanBanner(t *testing.T, addr string) {
	for _, first := range []string{"", "GET / HTTP/1.0\r\n\r\n", "CONNECT {}\r\nPING\r\n", "\r\n\r\n"} {
		conn, err := net.Dial("tcp", addr)
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(time.Second)))
		_, _ = io.WriteString(conn, first)
		said, _ := io.ReadAll(conn)
		_ = conn.Close()
		// An alert is TLS; a bare "this is not HTTP" of net/http tells nothing.
		if len(said) > 0 && said[0] != 0x15 && !bytes.HasPrefix(said, []byte("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.")) {
			t.Errorf("after %q it says in clear: %.200q", first, said)
		}
	}
}

func scanTLS(t *testing.T, addr string) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		conn, err := dialTLS(addr, version)
		if err == nil {
			_ = conn.Close()
		}
		if accepted := err == nil; accepted != (version == tls.VersionTLS13) {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
	}
}

// dialTLS does a handshake of one version as a stranger.
func dialTLS(addr string, version uint16) (*tls.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: waitTimeout}, "tcp", addr, &tls.Config{
		MinVersion: version, MaxVersion: version, InsecureSkipVerify: true, //nolint:gosec // a stranger verifies nothing
	})
}

// strangerPaths are open to anybody: health, and what enrollment needs.
var strangerPaths = map[string]bool{"/healthz": true, "/livez": true, "/readyz": true, wire.PathCA: true}

func scanPaths(t *testing.T, s *process.Server) {
	c := stranger()
	defer c.CloseIdleConnections()
	for _, base := range []string{s.APIURL, s.EnrollURL} {
		for _, path := range []string{
			"/", "/api", "/api/v1", "/api/v1/namespaces", "/api/v1/secrets", "/api/v1/namespaces/kube-system/secrets", "/apis", "/apis/fleet.nationtech.io/v1alpha1",
			"/apis/fleet.nationtech.io/v1alpha1/devices", "/apis/fleet.nationtech.io/v1alpha1/deployments", "/apis/fleet.nationtech.io/v1alpha1/enrollmenttokens",
			"/apis/authentication.k8s.io/v1/tokenreviews", "/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
			"/metrics", "/metrics/slis", "/version", "/openapi/v2", "/openapi/v3", "/swagger.json", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/flags/v", "/logs", "/configz", "/statusz", "/flagz",
			"/healthz", "/livez", "/readyz", "/healthz/etcd", "/readyz/etcd", "/livez/ping", "/.well-known/openid-configuration", "/openid/v1/jwks", "/ui", "/dashboard", "/varz", "/connz", "/jsz",
			wire.PathCA, wire.PathEnroll, wire.PathRenew, wire.PathTime,
		} {
			res, err := c.Get(base + path)
			if err != nil {
				t.Errorf("%s%s: %v", base, path, err)
				continue
			}
			_ = res.Body.Close()
			if res.StatusCode < 400 && !strangerPaths[path] {
				t.Errorf("%s%s answers %s to a stranger", base, path, res.Status)
			}
		}
	}
}

func stranger() *http.Client {
	return &http.Client{Timeout: waitTimeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // a stranger verifies nothing
}

// scanPasswords tries what people leave at its default.
func scanPasswords(t *testing.T, s *process.Server) {
	c := stranger()
	defer c.CloseIdleConnections()
	for _, user := range []string{"admin", "root", "fleet", "system:admin", "system:masters", "kubernetes-admin"} {
		for _, header := range []func(*http.Request){
			func(r *http.Request) { r.SetBasicAuth(user, user) }, func(r *http.Request) { r.SetBasicAuth(user, "password") }, func(r *http.Request) { r.SetBasicAuth(user, "") },
			func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+user) }, func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") },
			func(r *http.Request) { r.Header.Set("Authorization", "Bearer loopback") },
			func(r *http.Request) {
				r.Header.Set("X-Remote-User", user)
				r.Header.Set("X-Remote-Group", "system:masters")
			},
			func(r *http.Request) {
				r.Header.Set("Impersonate-User", user)
				r.Header.Set("Impersonate-Group", "system:masters")
			},
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.APIURL+"/api/v1/secrets", nil)
			must(t, err)
			header(req)
			res, err := c.Do(req)
			must(t, err)
			_ = res.Body.Close()
			if res.StatusCode < 400 {
				t.Errorf("%v lets anybody in: %s", req.Header, res.Status)
			}
		}
	}
}

// scanFiles: nothing in the data directory is for others, and files that hold
// keys are not even executable for their owner.
func scanFiles(t *testing.T, dir string) {
	keys := 0
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, mode := strings.TrimPrefix(path, dir), info.Mode()
		if mode.Type() == fs.ModeSymlink {
			t.Errorf("%s is a link", name)
			return nil
		}
		if mode.Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, mode)
		}
		if !mode.IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(data, []byte("PRIVATE KEY-----")) || filepath.Base(path) == "encryption.yaml" || strings.HasSuffix(path, "kubeconfig") {
			if keys++; mode.Perm() != 0o600 {
				t.Errorf("%s holds a key and has mode %v", name, mode)
			}
		}
		return nil
	}))
	const fewest = 8 // four authorities, two serving keys, the kubeconfig, the encryption key
	if keys < fewest {
		t.Errorf("%d files with keys were found, want at least %d: the scan does not see them", keys, fewest)
	}
}

// scanSecrets: what the process shows to others on the machine, and what it
// writes down, holds none of its secrets.
func scanSecrets(t *testing.T, s *process.Server, dir, token string) {
	secrets := map[string][]byte{"the token's secret": []byte(token[strings.LastIndex(token, ".")+1:])}
	for _, name := range []string{"encryption.yaml", "admin.kubeconfig"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		for i, field := range regexp.MustCompile(`[A-Za-z0-9+/=]{40,}`).FindAll(data, -1) {
			// A piece from the end: certificates, which are no secrets, begin alike.
			if !bytes.HasPrefix(decode64(field), []byte("-----BEGIN CERT")) {
				secrets[fmt.Sprintf("field %d of %s", i, name)] = field[len(field)-40:]
			}
		}
	}
	keys, err := filepath.Glob(filepath.Join(dir, "pki", "*.key"))
	must(t, err)
	for _, path := range keys {
		data, err := os.ReadFile(path)
		must(t, err)
		secrets[filepath.Base(path)] = bytes.Split(data, []byte("\n"))[1]
	}
	shown := map[string][]byte{"the log": []byte(s.Log())}
	for _, name := range []string{"cmdline", "environ"} {
		shown[name], err = os.ReadFile(fmt.Sprintf("/proc/%d/%s", s.PID(), name))
		must(t, err)
	}
	if len(secrets) < 8 || len(shown["the log"]) == 0 {
		t.Fatalf("there are %d secrets to look for, and %d bytes of log", len(secrets), len(shown["the log"]))
	}
	for where, text := range shown {
		for what, secret := range secrets {
			if bytes.Contains(text, secret) {
				t.Errorf("%s shows %s", where, what)
			}
		}
		if m := regexp.MustCompile(`FLT1\.\S+|PRIVATE KEY|(?i)(password|secret|token)=[^\s"]+`).Find(text); m != nil {
			t.Errorf("%s shows %.60q", where, m)
		}
	}
}

func decode64(b []byte) []byte {
	out, _ := base64.StdEncoding.DecodeString(string(b))
	return out
}
