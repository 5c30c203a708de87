package enroll_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// signedTime answers with the time of the test's own machine.
func (s *server) signedTime(w http.ResponseWriter, r *http.Request) {
	nonce, err := hex.DecodeString(r.URL.Query().Get(wire.QueryNonce))
	if err != nil {
		s.t.Error(err)
	}
	now := time.Now().UTC()
	digest := sha256.Sum256(wire.SignedTimePayload(nonce, now))
	signature, err := ecdsa.SignASN1(rand.Reader, s.tlsKey, digest[:])
	if err != nil {
		s.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(wire.SignedTime{Time: now, Signature: signature})
}

func (s *server) renew(w http.ResponseWriter, r *http.Request) {
	var req wire.RenewRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		s.t.Error(err)
		return
	}
	s.presented = r.TLS.PeerCertificates[0]
	block, _ := pem.Decode([]byte(req.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		s.t.Error(err)
		return
	}
	reply := wire.EnrollReply{Certificate: s.certificate("pi-1", csr.PublicKey), Root: encodeCertificates(s.root), Servers: []string{"tls://127.0.0.1:4222"}}
	if s.renewal != nil {
		s.renewal(csr, &reply)
	}
	if reply.Error != nil {
		w.WriteHeader(http.StatusForbidden)
	}
	if reply.Pending {
		w.WriteHeader(http.StatusAccepted)
	}
	_ = json.NewEncoder(w).Encode(reply)
}

// present is a device certificate that expired a year ago.
func (s *server) present() *tls.Certificate {
	s.t.Helper()
	key := newKey(s.t)
	uri := must(wire.DeviceURI("home", "pi-1"))(s.t)
	leaf := s.issue(&x509.Certificate{
		URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().AddDate(-2, 0, 0), NotAfter: time.Now().AddDate(-1, 0, 0),
	}, s.root, key.Public())
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (s *server) renewalRequest() enroll.Renewal {
	s.t.Helper()
	return enroll.Renewal{
		Server: s.url, Device: "pi-1", Present: s.present(), Next: newKey(s.t), Root: encodeCertificates(s.root), Clock: clockAt(time.Now()),
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

// clockAt is that of a device whose system's clock stands still at t.
func clockAt(t time.Time) *clock.Clock {
	return clock.New(clock.Config{System: func() time.Time { return t }})
}

// wrongClocks are what devices without a battery believe.
func wrongClocks() map[string]time.Time {
	return map[string]time.Time{"in 1970": time.Unix(0, 0), "ten years ahead": time.Now().AddDate(10, 0, 0)}
}

func TestEnrollWithAWrongClock(t *testing.T) {
	t.Parallel()
	for name, now := range wrongClocks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			req := s.request()
			req.Clock = clockAt(now)
			if _, err := enroll.Enroll(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(req.Clock.Now()); d < 0 || d > time.Minute {
				t.Errorf("the clock is %v late", d)
			}
		})
	}
}

// TestEnrollWhileTheRootIsReplaced: the token names one of two roots.
func TestEnrollWhileTheRootIsReplaced(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.others = []*x509.Certificate{newServer(t).root}
	both := encodeCertificates(s.others[0], s.root)
	s.answer = func(_ http.ResponseWriter, _ int32, _ wire.EnrollRequest, r *wire.EnrollReply) bool {
		r.Root = both
		return false
	}
	got, err := enroll.Enroll(t.Context(), s.request())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(both, got.Root); diff != "" {
		t.Error(diff)
	}
	s.answer = func(_ http.ResponseWriter, _ int32, _ wire.EnrollRequest, r *wire.EnrollReply) bool {
		r.Root = encodeCertificates(s.others...)
		return false
	}
	if _, err := enroll.Enroll(t.Context(), s.request()); !errors.Is(err, enroll.ErrReply) {
		t.Errorf("roots without that of the token: %v", err)
	}
}

func TestEnrollSendsTheHardwareID(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var got string
	s.answer = func(_ http.ResponseWriter, _ int32, req wire.EnrollRequest, _ *wire.EnrollReply) bool {
		got = req.HardwareID
		return false
	}
	req := s.request()
	req.HardwareID = strings.Repeat("a", 64)
	if _, err := enroll.Enroll(t.Context(), req); err != nil || got != req.HardwareID {
		t.Errorf("%q was sent: %v", got, err)
	}
}

func TestRenewWithAnExpiredCertificate(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	req := s.renewalRequest()
	got, err := enroll.Renew(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if s.presented == nil || !s.presented.Equal(req.Present.Leaf) {
		t.Error("the device did not show its certificate")
	}
	if diff := cmp.Diff([]string{"tls://127.0.0.1:4222"}, got.Servers); diff != "" || !strings.Contains(got.Certificate, "BEGIN CERTIFICATE") {
		t.Errorf("got %+v", got)
	}
}

func TestRenewWithAWrongClockIsUntimely(t *testing.T) {
	t.Parallel()
	for name, now := range wrongClocks() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			req := s.renewalRequest()
			req.Clock = clockAt(now)
			if _, err := enroll.Renew(t.Context(), req); !clock.Untimely(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestRenewFollowsANewRoot: the server's chain ends in the new root, which the
// old one vouches for. Afterwards the device trusts the new one only.
func TestRenewFollowsANewRoot(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	old, oldKey := s.root, s.key
	s.key = newKey(t)
	isRoot := func() *x509.Certificate {
		return &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "root 2"}}
	}
	s.root = s.issue(isRoot(), nil, s.key.Public())
	leaf := s.issue(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, s.root, s.tlsKey.Public())
	newRootKey := s.key
	s.key = oldKey
	cross := s.issue(isRoot(), old, newRootKey.Public())
	s.key = newRootKey
	s.chain = [][]byte{leaf.Raw, cross.Raw}
	req := s.renewalRequest()
	req.Root = encodeCertificates(old)
	got, err := enroll.Renew(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(encodeCertificates(s.root), got.Root); diff != "" {
		t.Error(diff)
	}
	req.Root = got.Root
	if _, err := enroll.Renew(t.Context(), req); err != nil {
		t.Errorf("with the new root: %v", err)
	}
}

func TestRenewKeepsWhatTheServerDoesNotSay(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.renewal = func(_ *x509.CertificateRequest, r *wire.EnrollReply) { r.Root, r.Servers = "", nil }
	got, err := enroll.Renew(t.Context(), s.renewalRequest())
	if err != nil || got.Root != encodeCertificates(s.root) || got.Servers != nil {
		t.Errorf("got %+v: %v", got, err)
	}
}

func TestRenewRefuses(t *testing.T) {
	t.Parallel()
	type change = func(s *server, csr *x509.CertificateRequest, r *wire.EnrollReply)
	tests := map[string]struct {
		change change
		want   error
	}{
		"another key": {func(s *server, _ *x509.CertificateRequest, r *wire.EnrollReply) {
			r.Certificate = s.certificate("pi-1", s.key.Public())
		}, enroll.ErrReply},
		"another device": {func(s *server, csr *x509.CertificateRequest, r *wire.EnrollReply) {
			r.Certificate = s.certificate("pi-2", csr.PublicKey)
		}, enroll.ErrReply},
		"another fleet": {func(s *server, csr *x509.CertificateRequest, r *wire.EnrollReply) {
			r.Certificate = newServer(s.t).certificate("pi-1", csr.PublicKey)
		}, enroll.ErrReply},
		"roots that would lock it out": {func(s *server, _ *x509.CertificateRequest, r *wire.EnrollReply) {
			r.Root = encodeCertificates(newServer(s.t).root)
		}, enroll.ErrReply},
		"damaged roots": {func(_ *server, _ *x509.CertificateRequest, r *wire.EnrollReply) { r.Root = "root" }, enroll.ErrReply},
		"plain-text server": {func(_ *server, _ *x509.CertificateRequest, r *wire.EnrollReply) {
			r.Servers = []string{"nats://10.0.0.1"}
		}, enroll.ErrReply},
		"pending": {func(_ *server, _ *x509.CertificateRequest, r *wire.EnrollReply) {
			*r = wire.EnrollReply{Pending: true, RetryAfterSeconds: 1}
		}, enroll.ErrPending},
		"endless": {func(_ *server, _ *x509.CertificateRequest, r *wire.EnrollReply) { r.Root = strings.Repeat("x", 1<<20) }, enroll.ErrReply},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.renewal = func(csr *x509.CertificateRequest, r *wire.EnrollReply) { tt.change(s, csr, r) }
			if _, err := enroll.Renew(t.Context(), s.renewalRequest()); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRenewTrustsThePinnedRootsOnly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	req := s.renewalRequest()
	req.Root = encodeCertificates(newServer(t).root)
	if _, err := enroll.Renew(t.Context(), req); err == nil {
		t.Error("a server with another root was asked")
	}
	if s.presented != nil {
		t.Error("a server with another root was shown the certificate")
	}
}

func TestRevocationSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.renewal = func(_ *x509.CertificateRequest, r *wire.EnrollReply) {
		*r = wire.EnrollReply{Error: &wire.Refusal{Code: wire.RefusedRevoked, Message: "revoked"}, Revocation: wire.RevocationWipe}
	}
	_, err := enroll.Renew(t.Context(), s.renewalRequest())
	revoked, ok := errors.AsType[*enroll.RevokedError](err)
	if !ok || revoked.Revocation != wire.RevocationWipe || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("got %v", err)
	}
	if refusal, ok := errors.AsType[*wire.Refusal](err); !ok || refusal.Code != wire.RefusedRevoked {
		t.Errorf("got %v", err)
	}
}
