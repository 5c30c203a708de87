package enroll_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a small enrollment listener with a CA of its own.
type server struct {
	t     *testing.T
	url   string
	root  *x509.Certificate
	key   *ecdsa.PrivateKey
	token wire.Token
	posts atomic.Int32
	// busy is how often the server has no time to give its root.
	busy atomic.Int32
	// answer may change a reply, or answer in its place.
	answer func(w http.ResponseWriter, post int32, req wire.EnrollRequest, reply *wire.EnrollReply) bool
	// others are root certificates that the server has beside root.
	others []*x509.Certificate
	// chain is what the server shows; chain[0] has tlsKey.
	chain  [][]byte
	tlsKey *ecdsa.PrivateKey
	// renewal may change the reply to a renewal, or answer in its place.
	renewal func(csr *x509.CertificateRequest, reply *wire.EnrollReply)
	// presented is the certificate that came with the last renewal.
	presented *x509.Certificate
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
	s.root = s.issue(&x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "root"},
		NotBefore: time.Now().AddDate(-3, 0, 0), NotAfter: time.Now().AddDate(7, 0, 0),
	}, nil, s.key.Public())
	s.token = wire.Token{CAHash: wire.Digest(sha256.Sum256(s.root.RawSubjectPublicKeyInfo)), ID: "t1"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathCA, func(w http.ResponseWriter, _ *http.Request) {
		if s.busy.Add(-1) >= 0 {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		_, _ = io.WriteString(w, encodeCertificates(append(s.others[:len(s.others):len(s.others)], s.root)...))
	})
	mux.HandleFunc("GET "+wire.PathTime, s.signedTime)
	mux.HandleFunc("POST "+wire.PathRenew, s.renew)
	mux.HandleFunc("POST "+wire.PathEnroll, s.enroll)
	hs := httptest.NewUnstartedServer(mux)
	tlsKey := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	leaf := s.issue(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"gateway.test"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, s.root, tlsKey.Public())
	s.chain, s.tlsKey = [][]byte{leaf.Raw}, tlsKey
	hs.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
			Certificates: []tls.Certificate{{Certificate: s.chain, PrivateKey: tlsKey}},
		}, nil
	}}
	hs.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that give up are what is tested
	hs.StartTLS()
	t.Cleanup(hs.Close)
	s.url = hs.URL
	return s
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (s *server) issue(template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	s.t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = template
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, public, s.key))(s.t)
	return must(x509.ParseCertificate(der))(s.t)
}

func (s *server) certificate(device string, public crypto.PublicKey) string {
	uri := must(wire.DeviceURI("home", device))(s.t)
	c := s.issue(&x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, s.root, public)
	return encodeCertificates(c)
}

func encodeCertificates(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.String()
}

func (s *server) enroll(w http.ResponseWriter, r *http.Request) {
	var req wire.EnrollRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Token != s.token.Encode() {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(wire.EnrollReply{Error: &wire.Refusal{Code: wire.RefusedToken, Message: "unknown token"}})
		return
	}
	block, _ := pem.Decode([]byte(req.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		s.t.Error(err)
		return
	}
	reply := wire.EnrollReply{Certificate: s.certificate(req.Device, csr.PublicKey), Servers: []string{"tls://127.0.0.1:4222"}}
	if s.answer != nil && s.answer(w, s.posts.Add(1), req, &reply) {
		return
	}
	_ = json.NewEncoder(w).Encode(reply)
}

func (s *server) request() enroll.Request {
	return enroll.Request{Server: s.url, Token: s.token.Encode(), Device: "pi-1", Key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(s.t)}
}

func TestEnroll(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	got, err := enroll.Enroll(t.Context(), s.request())
	if err != nil {
		t.Fatal(err)
	}
	if got.Device != "pi-1" || !strings.Contains(got.Root, "BEGIN CERTIFICATE") {
		t.Errorf("got %+v", got)
	}
	if diff := cmp.Diff([]string{"tls://127.0.0.1:4222"}, got.Servers); diff != "" {
		t.Error(diff)
	}
}

func TestEnrollWaitsForApproval(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.answer = func(w http.ResponseWriter, post int32, _ wire.EnrollRequest, _ *wire.EnrollReply) bool {
		if post > 1 {
			return false
		}
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(wire.EnrollReply{Pending: true, RetryAfterSeconds: 0})
		return true
	}
	req := s.request()
	told := 0
	req.Pending = func() { told++ }
	if _, err := enroll.Enroll(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if told != 1 {
		t.Errorf("told %d times about the wait", told)
	}
}

func TestEnrollAsksABusyServerAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.answer = func(w http.ResponseWriter, post int32, _ wire.EnrollRequest, _ *wire.EnrollReply) bool {
		if post > 1 {
			return false
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(wire.EnrollReply{Error: &wire.Refusal{Code: wire.RefusedUnavailable, Message: "busy"}})
		return true
	}
	if _, err := enroll.Enroll(t.Context(), s.request()); err != nil {
		t.Error(err)
	}
}

// A server to which a whole site comes at once drops connections, and lets devices
// wait for longer than a request may take.
func TestEnrollAsksAgainWhoDroppedIt(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.answer = func(w http.ResponseWriter, post int32, _ wire.EnrollRequest, _ *wire.EnrollReply) bool {
		if post > 1 {
			return false
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return false
		}
		_ = conn.Close()
		return true
	}
	req := s.request()
	var told []error
	req.Busy = func(why error) { told = append(told, why) }
	if _, err := enroll.Enroll(t.Context(), req); err != nil || len(told) != 1 {
		t.Errorf("got %v, and was told %v", err, told)
	}
}

// Where nobody listens, nobody is asked again.
func TestEnrollDoesNotWaitForNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	req := s.request()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	req.Server = "https://" + l.Addr().String()
	_ = l.Close()
	req.Busy = func(why error) { t.Errorf("asks again after %v", why) }
	if _, err := enroll.Enroll(t.Context(), req); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

// A flood of strangers must not keep a device from learning the root.
func TestEnrollAsksForTheRootAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.busy.Store(1)
	if _, err := enroll.Enroll(t.Context(), s.request()); err != nil {
		t.Error(err)
	}
	s.busy.Store(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := enroll.Enroll(ctx, s.request()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestEnrollStopsWaitingWithItsContext(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.answer = func(w http.ResponseWriter, _ int32, _ wire.EnrollRequest, _ *wire.EnrollReply) bool {
		w.WriteHeader(http.StatusAccepted)
		_ = json.NewEncoder(w).Encode(wire.EnrollReply{Pending: true, RetryAfterSeconds: 3600})
		return true
	}
	ctx, cancel := context.WithCancel(t.Context())
	req := s.request()
	req.Pending = cancel
	if _, err := enroll.Enroll(ctx, req); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestEnrollRefuses(t *testing.T) {
	t.Parallel()
	type answer = func(http.ResponseWriter, int32, wire.EnrollRequest, *wire.EnrollReply) bool
	reply := func(f func(s *server, req wire.EnrollRequest, r *wire.EnrollReply)) func(*server) answer {
		return func(s *server) answer {
			return func(_ http.ResponseWriter, _ int32, req wire.EnrollRequest, r *wire.EnrollReply) bool {
				f(s, req, r)
				return false
			}
		}
	}
	tests := map[string]struct {
		request func(*server, *enroll.Request)
		answer  func(*server) answer
		want    error
	}{
		"malformed token": {
			request: func(_ *server, r *enroll.Request) { r.Token = "FLT1.x" }, want: wire.ErrToken,
		},
		"token of another server": {
			request: func(s *server, r *enroll.Request) {
				other := s.token
				other.CAHash[0] ^= 1
				r.Token = other.Encode()
			}, want: enroll.ErrOtherServer,
		},
		"no https":     {request: func(_ *server, r *enroll.Request) { r.Server = "http://127.0.0.1:1" }, want: enroll.ErrServerURL},
		"no host":      {request: func(_ *server, r *enroll.Request) { r.Server = "gateway:8443" }, want: enroll.ErrServerURL},
		"no port":      {request: func(_ *server, r *enroll.Request) { r.Server = "https://127.0.0.1" }, want: enroll.ErrServerURL},
		"invalid name": {request: func(_ *server, r *enroll.Request) { r.Device = "Pi.1" }, want: wire.ErrNameInvalid},
		"certificate for another key": {answer: reply(func(s *server, req wire.EnrollRequest, r *wire.EnrollReply) {
			r.Certificate = s.certificate(req.Device, s.key.Public())
		}), want: enroll.ErrReply},
		"certificate for another device": {answer: reply(func(s *server, req wire.EnrollRequest, r *wire.EnrollReply) {
			block, _ := pem.Decode([]byte(req.CSR))
			csr, _ := x509.ParseCertificateRequest(block.Bytes)
			r.Certificate = s.certificate("pi-2", csr.PublicKey)
		}), want: enroll.ErrReply},
		"no certificate": {answer: reply(func(_ *server, _ wire.EnrollRequest, r *wire.EnrollReply) { r.Certificate = "" }), want: enroll.ErrReply},
		"no servers":     {answer: reply(func(_ *server, _ wire.EnrollRequest, r *wire.EnrollReply) { r.Servers = nil }), want: enroll.ErrReply},
		"plain-text server": {answer: reply(func(_ *server, _ wire.EnrollRequest, r *wire.EnrollReply) {
			r.Servers = []string{"nats://10.0.0.1:4222"}
		}), want: enroll.ErrReply},
		"endless reply": {answer: reply(func(_ *server, _ wire.EnrollRequest, r *wire.EnrollReply) {
			r.Certificate = strings.Repeat("x", 1<<20)
		}), want: enroll.ErrReply},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			req := s.request()
			if tt.request != nil {
				tt.request(s, &req)
			}
			if tt.answer != nil {
				s.answer = tt.answer(s)
			}
			if _, err := enroll.Enroll(t.Context(), req); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRefusalIsTyped(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	req := s.request()
	wrong := s.token
	wrong.Secret[0] ^= 1
	req.Token = wrong.Encode()
	_, err := enroll.Enroll(t.Context(), req)
	refusal, ok := errors.AsType[*wire.Refusal](err)
	if !ok || refusal.Code != wire.RefusedToken {
		t.Fatalf("got %v", err)
	}
	if strings.Contains(err.Error(), req.Token) {
		t.Error("the error repeats the token")
	}
}

func TestDefaultDeviceIsAValidName(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		host := rapid.OneOf(rapid.String(), rapid.StringMatching(`[A-Za-z0-9._-]{0,80}`)).Draw(t, "host")
		id := rapid.String().Draw(t, "machine id")
		if err := wire.ValidateDevice(enroll.DefaultDevice(host, id)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDefaultDevice(t *testing.T) {
	t.Parallel()
	a := enroll.DefaultDevice("Kitchen_Pi.local", "0123\n")
	if !strings.HasPrefix(a, "kitchen-pi-") {
		t.Errorf("got %s", a)
	}
	if a != enroll.DefaultDevice("kitchen-pi", "0123") {
		t.Error("white space around the machine id matters")
	}
	if a == enroll.DefaultDevice("kitchen-pi", "4567") {
		t.Error("the machine id does not matter")
	}
}

func TestCanonicalServer(t *testing.T) {
	t.Parallel()
	for _, server := range []string{"https://gw.example:8443", "https://gw.example:8443/", "HTTPS://GW.Example:8443"} {
		if got, err := enroll.CanonicalServer(server); err != nil || got != "https://gw.example:8443" {
			t.Errorf("%s is %s: %v", server, got, err)
		}
	}
	for _, server := range []string{"gw.example:8443", "https://gw.example:84430"} {
		if _, err := enroll.CanonicalServer(server); !errors.Is(err, enroll.ErrServerURL) {
			t.Errorf("%s: got %v", server, err)
		}
	}
}
