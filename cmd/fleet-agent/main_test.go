package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/keystore/tpmtest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a machine on which the command runs.
type host struct {
	t                  *testing.T
	config, state, dir string
}

func newHost(t *testing.T) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, dir: dir, config: filepath.Join(dir, "etc", "agent.yaml"), state: filepath.Join(dir, "state")}
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\n# by hand\nbindRoots: [/srv]\n")
	return h
}

func (h *host) write(name, content string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) run(stdin string, args ...string) (stdout string, err error) {
	var out, errs bytes.Buffer
	err = run(h.t.Context(), append([]string{"--config", h.config}, args...), strings.NewReader(stdin), &out, &errs)
	return out.String(), err
}

// gateway is an enrollment listener that grants everything that has its token.
type gateway struct {
	url   string
	token string
	keys  map[string]int // enrollments by public key
	// last is the public key that asked last; revoked are those that are refused.
	last    string
	revoked map[string]bool
	// noKeys: it has no packages.
	noKeys atomic.Bool
	// certificate is what it shows.
	certificate tls.Certificate
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	key, root := authority(t)
	token := wire.Token{CAHash: wire.Digest(sha256.Sum256(root.RawSubjectPublicKeyInfo)), ID: "t1"}
	g := &gateway{token: token.Encode(), keys: map[string]int{}, revoked: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathCA, func(w http.ResponseWriter, _ *http.Request) {
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})
	})
	mux.HandleFunc("GET "+pathKeys, func(w http.ResponseWriter, r *http.Request) {
		if g.noKeys.Load() {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("keys"))
	})
	mux.HandleFunc("POST "+wire.PathEnroll, func(w http.ResponseWriter, r *http.Request) {
		var req wire.EnrollRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
			return
		}
		block, _ := pem.Decode([]byte(req.CSR))
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Error(err)
			return
		}
		refusal := &wire.Refusal{Code: wire.RefusedToken, Message: "the token is unknown"}
		known := strings.TrimSpace(req.Token) == g.token
		if known && g.revoked[string(csr.RawSubjectPublicKeyInfo)] {
			refusal = &wire.Refusal{Code: wire.RefusedRevoked, Message: "this device's key was revoked"}
			known = false
		}
		g.last = string(csr.RawSubjectPublicKeyInfo)
		if !known {
			_ = json.NewEncoder(w).Encode(wire.EnrollReply{Error: refusal})
			return
		}
		g.keys[string(csr.RawSubjectPublicKeyInfo)]++
		uri, err := wire.DeviceURI("home", req.Device)
		if err != nil {
			t.Error(err)
			return
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(2), NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, root, csr.PublicKey, key)
		if err != nil {
			t.Error(err)
			return
		}
		_ = json.NewEncoder(w).Encode(wire.EnrollReply{
			Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
			Servers:     []string{"tls://127.0.0.1:4222"},
		})
	})
	s := httptest.NewUnstartedServer(mux)
	g.certificate = tls.Certificate{Certificate: [][]byte{root.Raw}, PrivateKey: key}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{g.certificate}}
	s.StartTLS()
	t.Cleanup(s.Close)
	g.url = s.URL
	return g
}

// authority makes a root that also serves TLS on loopback.
func authority(t *testing.T) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"gateway.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, root
}

func TestEnrollWritesIdentityAndConfiguration(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	out, err := h.run("", "enroll", "--server", g.url, "--name", "pi-1", "--token-file", h.write("token", g.token+"\n"))
	if err != nil || !strings.Contains(out, "pi-1") {
		t.Fatalf("%s: %v", out, err)
	}
	content, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"device: pi-1", "tls://127.0.0.1:4222", "# by hand", "bindRoots: [/srv]"} {
		if !strings.Contains(string(content), want) {
			t.Errorf("agent.yaml lacks %q:\n%s", want, content)
		}
	}
	info, err := os.Stat(h.config)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("agent.yaml has mode %v: %v", info.Mode(), err)
	}
}

// The agent's account reads agent.yaml on hardened systems, too, where root's umask
// is strict. It is the process's: no other test runs beside this one.
func TestEnrollUnderAStrictUmask(t *testing.T) {
	h, g := newHost(t), newGateway(t)
	t.Setenv("FLEET_AGENT_STATE_DIR", h.state)
	dir := filepath.Join(h.dir, "new")
	h.config = filepath.Join(dir, "agent.yaml")
	before := syscall.Umask(0o077)
	defer syscall.Umask(before)
	if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1"); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o755, h.config: 0o644, h.state: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", path, info.Mode(), err, want)
		}
	}
}

// What the device shows is what the server makes of the key that it asks with.
func TestEnrollShowsTheFingerprint(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	if out, err := h.run("", "fingerprint"); err == nil {
		t.Errorf("a device without a key prints %q", out)
	}
	out, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1")
	if err != nil {
		t.Fatal(err)
	}
	for spki := range g.keys {
		shown := wire.ShowFingerprint(wire.Sum([]byte(spki)).String())
		if !strings.Contains(out, "fingerprint "+shown+"\n") {
			t.Errorf("enroll prints %q, want %s in it", out, shown)
		}
		if again, err := h.run("", "fingerprint"); err != nil || again != shown+" pi-1\n" {
			t.Errorf("fingerprint prints %q (%v)", again, err)
		}
	}
	// One that was refused may be asked about: its key waits on the device.
	unknown := strings.Replace(g.token, "t1", "t2", 1)
	if _, err := h.run(unknown, "enroll", "--server", g.url, "--name", "pi-1", "--force"); err == nil {
		t.Fatal("the token is accepted")
	}
	if out, err := h.run("", "fingerprint"); err != nil || strings.Count(out, "\n") != 2 || !strings.Contains(out, "(waits") {
		t.Errorf("fingerprint prints %q (%v)", out, err)
	}
}

func TestEnrollAgain(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	for _, server := range []string{g.url, g.url, g.url + "/", strings.Replace(g.url, "https", "HTTPS", 1)} {
		if _, err := h.run(g.token, "enroll", "--server", server, "--name", "pi-1"); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.keys) != 1 {
		t.Errorf("%d keys for one device", len(g.keys))
	}
	other := newGateway(t)
	if _, err := h.run(other.token, "enroll", "--server", other.url, "--name", "pi-1"); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("another server: %v", err)
	}
	if _, err := h.run(other.token, "enroll", "--server", other.url, "--name", "pi-1", "--force"); err != nil {
		t.Error(err)
	}
	for key := range other.keys {
		if g.keys[key] > 0 {
			t.Error("the other server got the same key")
		}
	}
}

// TestRefusedEnrollmentLosesNothing: the identity that works stays until a new
// one does, and the key that was refused asks again.
func TestRefusedEnrollmentLosesNothing(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1"); err != nil {
		t.Fatal(err)
	}
	identity := func() string {
		data, err := os.ReadFile(filepath.Join(h.state, "identity.json"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := identity()
	unknown := strings.Replace(g.token, "t1", "t2", 1)
	if _, err := h.run(unknown, "enroll", "--server", g.url, "--name", "pi-1", "--force"); err == nil {
		t.Fatal("an unknown token was taken")
	}
	if identity() != before {
		t.Error("the refused enrollment replaced the identity")
	}
	pending, err := os.ReadFile(filepath.Join(h.state, "pending-identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1", "--force"); err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`"key":"[^"]*"`).FindString(string(pending))
	if key == "" || !strings.Contains(identity(), key) {
		t.Error("the key that asked first is not the one that was admitted")
	}
}

// TestForceMakesANewKeyAfterARefusal: whoever does as the message says gets in, and
// not the same message again.
func TestForceMakesANewKeyAfterARefusal(t *testing.T) {
	t.Parallel()
	for name, enrolled := range map[string]bool{"enrolled once": true, "never enrolled": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, g := newHost(t), newGateway(t)
			if enrolled {
				if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1"); err != nil {
					t.Fatal(err)
				}
			} else if _, err := h.run(strings.Replace(g.token, "t1", "t2", 1), "enroll", "--server", g.url, "--name", "pi-1"); err == nil {
				t.Fatal("an unknown token was taken")
			}
			g.revoked[g.last] = true
			if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1"); err == nil || !strings.Contains(err.Error(), "revoked; --force") {
				t.Fatalf("error is %v", err)
			}
			if out, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1", "--force"); err != nil {
				t.Errorf("%s: %v", out, err)
			}
		})
	}
}

func TestBadInputIsOneClearLine(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	tests := map[string]struct {
		stdin, config string
		args          []string
		want          string
	}{
		"no token":            {"", "", []string{"enroll", "--server", g.url}, "no enrollment token"},
		"malformed token":     {"FLT1.x", "", []string{"enroll", "--server", g.url}, "malformed enrollment token"},
		"unknown token":       {strings.Replace(g.token, "t1", "t2", 1), "", []string{"enroll", "--server", g.url}, "token is unknown"},
		"token elsewhere":     {newGateway(t).token, "", []string{"enroll", "--server", g.url}, "another server"},
		"nobody there":        {g.token, "", []string{"enroll", "--server", "https://127.0.0.1:1"}, "is it the enrollment port of a fleet-server that runs?"},
		"bad name":            {g.token, "", []string{"enroll", "--server", g.url, "--name", "Pi.1"}, "device name"},
		"no server":           {g.token, "", []string{"enroll"}, "server"},
		"unknown key":         {"", "devize: a\n", []string{"run"}, "unknown key devize"},
		"unknown credentials": {"", "credentials: {type: nkey}\n", []string{"run"}, "known here: x509"},
		"unknown level":       {"", "", []string{"run", "--log-level", "loud"}, "log.level"},
		"not enrolled":        {"", "", []string{"run"}, "fleet-agent enroll"},
		"not running":         {"", "", []string{"status"}, "not running"},
		"output":              {"", "", []string{"status", "-o", "xml"}, "text or json"},
		"confirm, no agent":   {"", "", []string{"confirm-epoch"}, "not running"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if tt.config != "" {
				h.write("etc/agent.yaml", tt.config)
			}
			_, err := h.run(tt.stdin, tt.args...)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, tt.want)
			}
			if err != nil && tt.stdin != "" && strings.Contains(err.Error(), strings.TrimSpace(tt.stdin)) {
				t.Error("the error repeats the token")
			}
		})
	}
}

// TestKeyInTheTPM: the state directory has nothing that is of use elsewhere.
func TestKeyInTheTPM(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\nkeyStorage: tpm\ntpm:\n  device: "+tpmtest.Start(t)+"\n")
	for range 2 { // a second time with the key that is there
		if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1"); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.keys) != 1 {
		t.Errorf("%d keys for one device", len(g.keys))
	}
	data, err := os.ReadFile(filepath.Join(h.state, "identity.json"))
	if err != nil || !strings.Contains(string(data), "TSS2 PRIVATE KEY") || strings.Contains(string(data), "BEGIN PRIVATE KEY") {
		t.Errorf("%s: %v", data, err)
	}
}

func TestNoTPMIsOneClearLine(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\nkeyStorage: tpm\ntpm:\n  device: "+h.dir+"/none\n")
	_, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1")
	if err == nil || !strings.Contains(err.Error(), "keyStorage: file") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestHardwareID(t *testing.T) {
	t.Parallel()
	out, err := newHost(t).run("", "hardware-id")
	if err == nil && !regexp.MustCompile(`^[0-9a-f]{64}\n$`).MatchString(out) || err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("%q: %v", out, err)
	}
}

// TestWipedDeviceIdles: there is no identity any more, and yet the agent is up
// and says why nothing happens, and how that ends.
func TestWipedDeviceIdles(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	h.write("state/revocation.json", `{"enrollment":"first","device":"pi-1","policy":"Wipe","wiped":true}`)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		var out bytes.Buffer
		ended <- run(ctx, []string{"--config", h.config, "run"}, strings.NewReader(""), &out, &out)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	out, err := h.run("", "status")
	for ; err != nil; out, err = h.run("", "status") {
		select {
		case err := <-ended:
			t.Fatalf("the agent ended: %v", err)
		case <-tick.C:
		}
	}
	if !strings.Contains(out, "pi-1") || !strings.Contains(out, "is wiped") || !strings.Contains(out, "enroll --force") {
		t.Error(out)
	}
	out, err = h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1", "--force")
	if err != nil || !strings.Contains(out, "systemctl restart fleet-agent") {
		t.Errorf("%s: %v", out, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestStatusShowsTheCertificate(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		status control.Status
		want   string
	}{
		"fine":    {control.Status{CertificateExpires: now.AddDate(1, 0, 0)}, "until 2028-01-01 00:00:00 UTC\n"},
		"expired": {control.Status{CertificateExpires: now.AddDate(-1, 0, 0)}, "expired at 2026-01-01 00:00:00 UTC\n"},
		"not renewed": {control.Status{CertificateExpires: now.AddDate(0, 1, 0), RenewalError: "no route"},
			"until 2027-02-01 00:00:00 UTC; the last renewal failed: no route\n"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			if err := printStatus(&out, tt.status, now); err != nil || !strings.Contains(out.String(), tt.want) {
				t.Errorf("%s: %v", out.String(), err)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"version", "--version"} {
		if out, err := newHost(t).run("", arg); err != nil || !strings.HasPrefix(out, "fleet-agent ") {
			t.Errorf("%s: %q: %v", arg, out, err)
		}
	}
}
