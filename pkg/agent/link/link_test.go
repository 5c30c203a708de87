package link_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const device = "pi-1"

// pki has one root and a certificate that serves both sides.
type pki struct {
	roots *x509.CertPool
	cert  tls.Certificate
}

func newPKI(t *testing.T) pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"gateway.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return pki{roots: roots, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}
}

func (p *pki) fixed() link.Fixed { return link.Fixed{Cert: &p.cert, Pool: p.roots} }

// bus is a real NATS server with a connection that answers like fleet-server.
type bus struct {
	pki
	srv  *server.Server
	conn *nats.Conn
}

func newBus(t *testing.T, p pki, port int) *bus {
	t.Helper()
	b := newServer(t, p, port, nil)
	conn, err := nats.Connect(b.srv.ClientURL(), nats.Secure(&tls.Config{RootCAs: p.roots, Certificates: []tls.Certificate{p.cert}}), nats.TLSHandshakeFirst())
	if err != nil {
		t.Fatal(err)
	}
	b.conn = conn
	return b
}

// newServer starts a bus to which nothing is connected. auth may be nil.
func newServer(t *testing.T, p pki, port int, auth server.Authentication) *bus {
	t.Helper()
	srv, err := server.NewServer(&server.Options{
		CustomClientAuthentication: auth,
		Host:                       "127.0.0.1", Port: port, NoSigs: true, NoLog: true, TLSVerify: true, TLSTimeout: 5, TLSHandshakeFirst: true,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.cert}, ClientCAs: p.roots, ClientAuth: tls.RequireAndVerifyClientCert},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	b := &bus{pki: p, srv: srv}
	t.Cleanup(b.stop)
	return b
}

func (b *bus) stop() {
	if b.conn != nil {
		b.conn.Close()
	}
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
}

func (b *bus) url() string { return "tls://" + b.srv.Addr().String() }

// answer replies to every message of a kind.
func (b *bus) answer(t *testing.T, kind wire.Kind, f func(data []byte) any) {
	t.Helper()
	subject, err := wire.UpSubject(device, kind)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.conn.Subscribe(subject, func(m *nats.Msg) {
		if !wire.IsReplyOf(device, m.Header.Get(wire.HeaderSession), m.Reply) {
			t.Errorf("reply subject %q is not in the session's inbox", m.Reply)
		}
		if session := m.Header[wire.HeaderSession]; len(m.Header) != 1 || len(session) != 1 || !wire.ValidSession(session[0]) {
			t.Errorf("headers of %s: %v", kind, m.Header)
		}
		reply, err := json.Marshal(f(m.Data))
		if err != nil {
			t.Error(err)
			return
		}
		_ = m.Respond(reply)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func (b *bus) open(t *testing.T) *link.Link {
	t.Helper()
	l, err := link.Open(link.Config{
		Device: device, Servers: []string{b.url()}, Credentials: b.fixed(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func receive(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatalf("no signal: %s", what)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	b := newBus(t, newPKI(t), server.RANDOM_PORT)
	want := wire.SnapshotReply{Status: wire.SnapshotManifest, Manifest: &wire.Manifest{
		Version: wire.Version{Epoch: "e", Term: 1, Seq: 2}, Complete: true, Time: time.Unix(1, 0).UTC(), Entries: []wire.Entry{},
	}, Want: []wire.Want{wire.WantInfo}}
	var got wire.SnapshotRequest
	b.answer(t, wire.KindSnapshot, func(data []byte) any {
		if err := json.Unmarshal(data, &got); err != nil {
			t.Error(err)
		}
		return want
	})
	l := b.open(t)
	receive(t, l.Connected(), "connected")
	req := wire.SnapshotRequest{Have: wire.Version{Epoch: "e", Term: 1, Seq: 1}, InfoHash: "h"}
	reply, err := l.Snapshot(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, reply); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(req, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadSnapshotsAreErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		reply any
		want  error
	}{
		"incomplete": {wire.SnapshotReply{Status: wire.SnapshotManifest, Manifest: &wire.Manifest{Version: wire.Version{Epoch: "e", Term: 1, Seq: 1}}}, wire.ErrManifest},
		"none":       {wire.SnapshotReply{Status: wire.SnapshotManifest}, wire.ErrManifest},
		"foreign":    {"hello", wire.ErrPayload},
		"empty":      {map[string]any{}, wire.ErrPayload},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBus(t, newPKI(t), server.RANDOM_PORT)
			b.answer(t, wire.KindSnapshot, func([]byte) any { return tt.reply })
			l := b.open(t)
			receive(t, l.Connected(), "connected")
			if _, err := l.Snapshot(t.Context(), wire.SnapshotRequest{}); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRefusalsAreTyped(t *testing.T) {
	t.Parallel()
	b := newBus(t, newPKI(t), server.RANDOM_PORT)
	refusal := &wire.Refusal{Code: wire.RefusedRateLimited, Message: "slow down"}
	b.answer(t, wire.KindSnapshot, func([]byte) any { return wire.SnapshotReply{Error: refusal} })
	b.answer(t, wire.KindBody, func([]byte) any { return wire.BodyReply{Error: refusal} })
	b.answer(t, wire.KindInfo, func([]byte) any { return wire.Ack{Error: refusal} })
	b.answer(t, wire.KindState, func([]byte) any { return wire.Ack{Error: refusal} })
	l := b.open(t)
	receive(t, l.Connected(), "connected")
	calls := map[string]func(context.Context) error{
		"snapshot": func(ctx context.Context) error { _, err := l.Snapshot(ctx, wire.SnapshotRequest{}); return err },
		"body":     func(ctx context.Context) error { _, err := l.Body(ctx, wire.Sum(nil).String(), 1); return err },
		"info":     func(ctx context.Context) error { return l.SendInfo(ctx, []byte("{}")) },
		"state":    func(ctx context.Context) error { return l.SendState(ctx, []byte("{}")) },
	}
	for name, call := range calls {
		got, ok := errors.AsType[*wire.Refusal](call(t.Context()))
		if !ok || got.Code != wire.RefusedRateLimited {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestBodyIsAssembledAndVerified(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789"), 20_000) // 200 KB: five pieces
	hash := wire.Sum(body).String()
	honest := func(req wire.BodyRequest) wire.BodyReply {
		return wire.BodyReply{Size: len(body), Data: body[req.Offset:min(req.Offset+wire.BodyChunk, len(body))]}
	}
	tests := map[string]struct {
		reply func(wire.BodyRequest) wire.BodyReply
		want  error
	}{
		"whole":      {honest, nil},
		"other size": {func(r wire.BodyRequest) wire.BodyReply { p := honest(r); p.Size++; return p }, deviceclient.ErrBody},
		"too much":   {func(wire.BodyRequest) wire.BodyReply { return wire.BodyReply{Size: len(body), Data: body[:100_001]} }, deviceclient.ErrBody},
		"nothing":    {func(wire.BodyRequest) wire.BodyReply { return wire.BodyReply{Size: len(body)} }, deviceclient.ErrBody},
		"other content": {func(r wire.BodyRequest) wire.BodyReply {
			p := honest(r)
			p.Data = bytes.ToUpper(bytes.Repeat([]byte("x"), len(p.Data)))
			return p
		}, deviceclient.ErrBody},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBus(t, newPKI(t), server.RANDOM_PORT)
			b.answer(t, wire.KindBody, func(data []byte) any {
				var req wire.BodyRequest
				if err := json.Unmarshal(data, &req); err != nil || req.Hash != hash {
					t.Errorf("request %s: %v", data, err)
				}
				return tt.reply(req)
			})
			l := b.open(t)
			receive(t, l.Connected(), "connected")
			got, err := l.Body(t.Context(), hash, len(body))
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && !bytes.Equal(got, body) {
				t.Error("another body arrived")
			}
		})
	}
}

func TestNudgesAreCoalesced(t *testing.T) {
	t.Parallel()
	b := newBus(t, newPKI(t), server.RANDOM_PORT)
	b.answer(t, wire.KindInfo, func([]byte) any { return wire.Ack{} })
	l := b.open(t)
	receive(t, l.Connected(), "connected")
	subject, err := wire.DownSubject(device, l.Session(), wire.KindNudge)
	if err != nil {
		t.Fatal(err)
	}
	// An answered request proves that the server has the subscription, and a
	// second one that the nudges before it were delivered.
	for range 2 {
		if err := l.SendInfo(t.Context(), []byte("{}")); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := b.conn.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, l.Nudges(), "nudge")
}

func TestLinkComesBack(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	first := newBus(t, p, server.RANDOM_PORT)
	l := first.open(t)
	receive(t, l.Connected(), "connected")
	addr, ok := first.srv.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("the server has no TCP address")
	}
	first.stop()
	// The request may be on its way before the loss is noticed: then it ends with
	// its context.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.SendInfo(ctx, []byte("{}")); err == nil {
		t.Error("a report was sent without a server")
	}
	wait.For(t, "losing the connection", time.Minute, time.Millisecond, func() error {
		if _, err := l.Server(); err == nil || l.LastContact().IsZero() {
			return errors.New("it is there")
		}
		return nil
	})
	if lost := l.LastContact(); time.Since(lost) > time.Minute || !l.LastContact().Equal(lost) {
		t.Errorf("the last contact was at %v, then at %v", lost, l.LastContact())
	}
	second := newBus(t, p, addr.Port)
	second.answer(t, wire.KindInfo, func([]byte) any { return wire.Ack{} })
	receive(t, l.Connected(), "connected again")
	if err := l.SendInfo(t.Context(), []byte("{}")); err != nil {
		t.Error(err)
	}
	if url, err := l.Server(); url != second.url() {
		t.Errorf("connected to %q: %v", url, err)
	}
}

func TestLinkStartsWithoutServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	gone := newBus(t, p, server.RANDOM_PORT)
	url := gone.url()
	gone.stop()
	l, err := link.Open(link.Config{Device: device, Servers: []string{url}, Credentials: p.fixed(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	if err := l.Heartbeat(wire.Heartbeat{}); !errors.Is(err, deviceclient.ErrDisconnected) || !l.LastContact().IsZero() {
		t.Errorf("last contact at %v: %v", l.LastContact(), err)
	}
	present := newBus(t, p, server.RANDOM_PORT)
	if err := l.SetServers([]string{url, present.url()}); err != nil {
		t.Fatal(err)
	}
	receive(t, l.Connected(), "connected to the moved server")
	if l.LastContact().IsZero() {
		t.Error("there was no contact yet")
	}
}

func TestOversizedReportsAreNotSent(t *testing.T) {
	t.Parallel()
	b := newBus(t, newPKI(t), server.RANDOM_PORT)
	l := b.open(t)
	if err := l.SendState(t.Context(), make([]byte, wire.KindState.Verb().MaxRequest+1)); !errors.Is(err, wire.ErrPayload) {
		t.Errorf("got %v", err)
	}
}
