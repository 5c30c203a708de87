package clock_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// today is the true time of these tests.
var today = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

// hardware is a device with a clock that may be wrong. It is a clock.Keeper too.
type hardware struct {
	system  time.Time
	elapsed time.Duration
	good    time.Time
	saves   int
}

func (h *hardware) GoodTime() time.Time { return h.good }

func (h *hardware) SaveGoodTime(t time.Time) error { h.good, h.saves = t, h.saves+1; return nil }

func (h *hardware) boot() *clock.Clock {
	return clock.New(clock.Config{System: func() time.Time { return h.system }, Elapsed: func() time.Duration { return h.elapsed }, Keeper: h})
}

// pass lets time pass, for both clocks of the device.
func (h *hardware) pass(d time.Duration) { h.system, h.elapsed = h.system.Add(d), h.elapsed+d }

// server signs the time.
type server struct {
	url  *url.URL
	root *x509.Certificate
	leaf tls.Certificate
	// answer may change what is sent.
	answer func(nonce []byte, reply *wire.SignedTime, w http.ResponseWriter)
	now    time.Time
}

func (s *server) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.root)
	return pool
}

// newServer starts a server whose certificate is valid for a month around today.
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{now: today}
	rootKey := newKey(t)
	s.root = issue(t, &x509.Certificate{
		NotBefore: today.Add(-year), NotAfter: today.Add(9 * year),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, &rootKey.PublicKey, rootKey)
	key := newKey(t)
	leaf := issue(t, &x509.Certificate{
		NotBefore: today.Add(-year / 24), NotAfter: today.Add(year / 24),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, s.root, &key.PublicKey, rootKey)
	s.leaf = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		nonce, err := hex.DecodeString(r.URL.Query().Get(wire.QueryNonce))
		if err != nil || len(nonce) != 32 || r.URL.Path != wire.PathTime {
			t.Errorf("request %s", r.URL)
		}
		reply := s.sign(t, key, nonce, s.now)
		if s.answer != nil {
			s.answer(nonce, &reply, w)
		}
		_ = json.NewEncoder(w).Encode(reply)
	}))
	hs.TLS = &tls.Config{Certificates: []tls.Certificate{s.leaf}}
	hs.StartTLS()
	t.Cleanup(hs.Close)
	u, err := url.Parse(hs.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.url = u
	return s
}

func (s *server) sign(t *testing.T, key *ecdsa.PrivateKey, nonce []byte, at time.Time) wire.SignedTime {
	t.Helper()
	digest := sha256.Sum256(wire.SignedTimePayload(nonce, at))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return wire.SignedTime{Time: at, Signature: signature}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func issue(t *testing.T, template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(1)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func expect(t *testing.T, c *clock.Clock, want time.Time) {
	t.Helper()
	if got := c.Now(); !got.Equal(want) {
		t.Errorf("it is %v, want %v", got, want)
	}
}

func TestClockIsTheLatestOfWhatIsKnown(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		system, good, certificate, want time.Time
	}{
		"nothing but the system":    {system: today, want: today},
		"a clock that was reset":    {system: time.Unix(0, 0), good: today, want: today},
		"a new device in 1970":      {system: time.Unix(0, 0), certificate: today, want: today},
		"the system is ahead":       {system: today.Add(year), good: today, certificate: today.Add(-year), want: today.Add(year)},
		"the certificate is newest": {system: today.Add(-time.Hour), good: today.Add(-2 * time.Hour), certificate: today, want: today},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &hardware{system: tt.system, good: tt.good}
			c := h.boot()
			c.NotBefore(tt.certificate)
			expect(t, c, tt.want)
		})
	}
}

func TestAClockThatWasResetGoesOn(t *testing.T) {
	t.Parallel()
	h := &hardware{system: time.Unix(0, 0), good: today}
	c := h.boot()
	h.pass(time.Hour)
	expect(t, c, today.Add(time.Hour))
	h.system = today.Add(2 * time.Hour) // somebody set it
	expect(t, c, today.Add(2*time.Hour))
}

func TestGoodTimesAreRememberedNowAndThen(t *testing.T) {
	t.Parallel()
	h := &hardware{system: today}
	c := h.boot()
	for range 60 {
		c.Proven()
		h.pass(time.Minute)
	}
	if h.saves != 12 {
		t.Errorf("%d writes in an hour", h.saves)
	}
	h.system = time.Unix(0, 0)
	expect(t, h.boot(), today.Add(55*time.Minute))
}

// TestLearn: whatever the system says, the clock is right afterwards, and stays so.
func TestLearn(t *testing.T) {
	t.Parallel()
	for name, system := range map[string]time.Time{
		"in 1970": time.Unix(0, 0), "ten years ahead": today.Add(10 * year), "right": today,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			h := &hardware{system: system, good: today.Add(5 * year)} // a wrong one was remembered
			c := h.boot()
			c.NotBefore(today.Add(-time.Hour))
			if err := c.Learn(t.Context(), clock.Source{Server: s.url, Roots: s.pool()}); err != nil {
				t.Fatal(err)
			}
			expect(t, c, today)
			h.pass(time.Hour)
			expect(t, c, today.Add(time.Hour))
			for _, jump := range []time.Time{time.Unix(0, 0), today.Add(time.Hour), today.Add(20 * year)} {
				h.system = jump
				expect(t, c, today.Add(time.Hour))
			}
			h.system = time.Unix(0, 0)
			expect(t, h.boot(), today) // after a power cut
		})
	}
}

func TestLearnRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		// prepare may change the server and what the device believes.
		prepare func(t *testing.T, s *server, c *clock.Clock)
	}{
		"another root": {func(t *testing.T, s *server, _ *clock.Clock) { s.root = newServer(t).root }},
		"another server": {func(_ *testing.T, s *server, _ *clock.Clock) {
			s.url.Host = strings.Replace(s.url.Host, "127.0.0.1", "localhost", 1)
		}},
		"another nonce": {func(t *testing.T, s *server, _ *clock.Clock) {
			s.answer = func(nonce []byte, reply *wire.SignedTime, _ http.ResponseWriter) {
				nonce[0] ^= 1
				key, _ := s.leaf.PrivateKey.(*ecdsa.PrivateKey)
				*reply = s.sign(t, key, nonce, s.now)
			}
		}},
		"another key": {func(t *testing.T, s *server, _ *clock.Clock) {
			s.answer = func(nonce []byte, reply *wire.SignedTime, _ http.ResponseWriter) {
				*reply = s.sign(t, newKey(t), nonce, s.now)
			}
		}},
		"another time than was signed": {func(_ *testing.T, s *server, _ *clock.Clock) {
			s.answer = func(_ []byte, reply *wire.SignedTime, _ http.ResponseWriter) {
				reply.Time = reply.Time.Add(time.Second)
			}
		}},
		"no signature": {func(_ *testing.T, s *server, _ *clock.Clock) {
			s.answer = func(_ []byte, reply *wire.SignedTime, _ http.ResponseWriter) { reply.Signature = nil }
		}},
		"before the server's certificate":     {func(_ *testing.T, s *server, _ *clock.Clock) { s.now = today.Add(-year) }},
		"after the server's certificate":      {func(_ *testing.T, s *server, _ *clock.Clock) { s.now = today.Add(year) }},
		"before the device's own certificate": {func(_ *testing.T, _ *server, c *clock.Clock) { c.NotBefore(today.Add(time.Hour)) }},
		"an endless answer": {func(_ *testing.T, s *server, _ *clock.Clock) {
			s.answer = func(_ []byte, _ *wire.SignedTime, w http.ResponseWriter) { _, _ = w.Write(make([]byte, 1<<20)) }
		}},
		"no answer": {func(_ *testing.T, s *server, _ *clock.Clock) {
			s.answer = func(_ []byte, _ *wire.SignedTime, w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }
		}},
		"a way to somebody else": {func(t *testing.T, s *server, _ *clock.Clock) {
			other := newServer(t)
			s.answer = func(_ []byte, _ *wire.SignedTime, w http.ResponseWriter) {
				w.Header().Set("Location", other.url.String())
				w.WriteHeader(http.StatusFound)
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			h := &hardware{system: time.Unix(0, 0)}
			c := h.boot()
			tt.prepare(t, s, c)
			before := c.Now()
			if err := c.Learn(t.Context(), clock.Source{Server: s.url, Roots: s.pool()}); !errors.Is(err, clock.ErrTime) {
				t.Errorf("got %v", err)
			}
			expect(t, c, before)
			if h.saves > 0 {
				t.Error("the time was remembered")
			}
		})
	}
}

func TestUntimely(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	leaf, err := x509.ParseCertificate(s.leaf.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Time]bool{today: false, time.Unix(0, 0): true, today.Add(year): true} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: s.pool(), CurrentTime: at})
		if clock.Untimely(&tls.CertificateVerificationError{Err: err}) != want {
			t.Errorf("at %v: %v", at, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: x509.NewCertPool(), CurrentTime: today}); clock.Untimely(err) {
		t.Error("an unknown root is no matter of time")
	}
}
