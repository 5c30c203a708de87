package credential_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// gateway is a NATS server and an enrollment listener on real sockets.
type gateway struct {
	t       *testing.T
	rootKey *ecdsa.PrivateKey
	root    *x509.Certificate
	leafKey *ecdsa.PrivateKey
	url     string // of the listener
	nats    *server.Server
	renewed atomic.Int32
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, rootKey: newKey(t), leafKey: newKey(t)}
	g.root = g.issue(&x509.Certificate{
		NotBefore: time.Now().AddDate(-3, 0, 0), NotAfter: time.Now().AddDate(7, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &g.rootKey.PublicKey)
	leaf := g.issue(&x509.Certificate{
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &g.leafKey.PublicKey)
	serving := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: g.leafKey}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+wire.PathTime, g.time)
	mux.HandleFunc("POST "+wire.PathRenew, g.renew)
	hs := httptest.NewUnstartedServer(mux)
	hs.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{serving}, ClientAuth: tls.RequestClientCert}
	hs.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that give up are what is tested
	hs.StartTLS()
	t.Cleanup(hs.Close)
	g.url = hs.URL
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, TLSVerify: true, TLSTimeout: 5, TLSHandshakeFirst: true,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{serving}, ClientCAs: g.pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	g.nats = srv
	return g
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (g *gateway) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(g.root)
	return pool
}

func (g *gateway) issue(template *x509.Certificate, public any) *x509.Certificate {
	g.t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent := g.root
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, g.rootKey)
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func encode(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// device is a certificate of the device with the given life.
func (g *gateway) device(public any, from, to time.Time) string {
	g.t.Helper()
	uri, err := wire.DeviceURI("home", "pi-1")
	if err != nil {
		g.t.Fatal(err)
	}
	return encode(g.issue(&x509.Certificate{
		NotBefore: from, NotAfter: to, URIs: []*url.URL{uri}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, public))
}

func (g *gateway) time(w http.ResponseWriter, r *http.Request) {
	nonce, err := hex.DecodeString(r.URL.Query().Get(wire.QueryNonce))
	if err != nil {
		g.t.Error(err)
	}
	now := time.Now().UTC()
	digest := sha256.Sum256(wire.SignedTimePayload(nonce, now))
	signature, err := ecdsa.SignASN1(rand.Reader, g.leafKey, digest[:])
	if err != nil {
		g.t.Error(err)
	}
	_ = json.NewEncoder(w).Encode(wire.SignedTime{Time: now, Signature: signature})
}

func (g *gateway) renew(w http.ResponseWriter, r *http.Request) {
	var req wire.RenewRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || len(r.TLS.PeerCertificates) == 0 {
		g.t.Errorf("renewal with %d certificates: %v", len(r.TLS.PeerCertificates), err)
		return
	}
	block, _ := pem.Decode([]byte(req.CSR))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		g.t.Error(err)
		return
	}
	g.renewed.Add(1)
	_ = json.NewEncoder(w).Encode(wire.EnrollReply{
		Certificate: g.device(csr.PublicKey, time.Now(), time.Now().AddDate(1, 0, 0)), Root: encode(g.root), Servers: []string{"tls://127.0.0.1:4222"},
	})
}

// start runs link and credentials of a device that enrolled earlier.
func (g *gateway) start(system, from, to time.Time) (*link.Link, *clock.Clock, *store.Store) {
	t := g.t
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	s, err := store.Open(filepath.Join(t.TempDir(), "state"), logger)
	if err != nil {
		t.Fatal(err)
	}
	key, err := keystore.File{}.Create()
	if err != nil {
		t.Fatal(err)
	}
	identity := &store.Identity{
		Device: "pi-1", Enrollment: "first", Server: g.url, Key: key.Text(), Certificate: g.device(key.Public(), from, to), Root: encode(g.root),
	}
	if err := s.SaveIdentity(identity); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	c := clock.New(clock.Config{Keeper: s, System: func() time.Time { return system.Add(time.Since(started)) }})
	m, err := credential.Load(credential.Config{Store: s, Keys: keystore.File{}, Clock: c, Server: credential.Listener{}, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.Open(link.Config{Device: "pi-1", Servers: []string{"tls://" + g.nats.Addr().String()}, Credentials: m, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx, l, func(r wire.Revocation) { t.Errorf("revoked: %s", r) })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return l, c, s
}

// TestWrongClocksConnect: to a real server, and go on with the right time.
func TestWrongClocksConnect(t *testing.T) {
	t.Parallel()
	for name, system := range map[string]time.Time{"in 1970": time.Unix(0, 0), "ten years ahead": time.Now().AddDate(10, 0, 0)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			l, c, s := g.start(system, time.Now().AddDate(0, -1, 0), time.Now().AddDate(0, 11, 0))
			select {
			case <-l.Connected():
			case <-time.After(time.Minute):
				_, err := l.Server()
				t.Fatal(err)
			}
			for what, at := range map[string]time.Time{"the clock": c.Now(), "what is remembered": s.GoodTime()} {
				if d := time.Since(at); d < -time.Minute || d > time.Minute {
					t.Errorf("%s is %v late", what, d)
				}
			}
			if g.renewed.Load() > 0 {
				t.Error("the certificate was renewed for no reason")
			}
		})
	}
}

// TestExpiredDeviceComesBack: after a year in a drawer.
func TestExpiredDeviceComesBack(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	l, _, s := g.start(time.Now(), time.Now().AddDate(-2, 0, 0), time.Now().AddDate(-1, 0, 0))
	select {
	case <-l.Connected():
	case <-time.After(time.Minute):
		_, err := l.Server()
		t.Fatal(err)
	}
	if n := g.renewed.Load(); n != 1 {
		t.Errorf("%d renewals", n)
	}
	if identity, err := s.Identity(); err != nil || len(identity.Servers) != 1 {
		t.Errorf("identity %+v: %v", identity, err)
	}
}
