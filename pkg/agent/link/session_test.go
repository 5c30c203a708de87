package link_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// names returns what the connections call themselves, but for the test's own.
func (b *bus) names(t *testing.T) []string {
	t.Helper()
	conns, err := b.srv.Connz(&server.ConnzOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range conns.Conns {
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	return names
}

func TestSessionIsNameAndHeaderOfEverything(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	b := newBus(t, p, server.RANDOM_PORT)
	l := b.open(t)
	receive(t, l.Connected(), "connected")
	names := b.names(t)
	if len(names) != 1 || !wire.ValidSession(names[0]) {
		t.Fatalf("connections call themselves %q", names)
	}
	subject, err := wire.UpSubject(device, wire.KindHeartbeat)
	if err != nil {
		t.Fatal(err)
	}
	beats, err := b.conn.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.conn.Flush(), l.Heartbeat(wire.Heartbeat{})); err != nil {
		t.Fatal(err)
	}
	m, err := beats.NextMsg(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Header[wire.HeaderSession]; len(got) != 1 || got[0] != names[0] {
		t.Errorf("the heartbeat is of session %q, the connection of %q", got, names[0])
	}
	addr, ok := b.srv.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("the server has no TCP address")
	}
	b.stop()
	again := newBus(t, p, addr.Port)
	receive(t, l.Connected(), "connected again")
	if got := again.names(t); len(got) != 1 || got[0] != names[0] {
		t.Errorf("session %q came back as %q", names, got)
	}
	if other := again.open(t); other != nil {
		receive(t, other.Connected(), "another process connected")
	}
	if got := again.names(t); len(got) != 2 || got[0] == got[1] {
		t.Errorf("two processes have sessions %q", got)
	}
}

// TestARefusedSnapshotKeepsItsNonce: the server counts a nonce as given when it
// sent it, whatever else the reply said.
func TestARefusedSnapshotKeepsItsNonce(t *testing.T) {
	t.Parallel()
	tests := map[string]wire.SnapshotReply{
		"refused":      {Nonce: "n2", Error: &wire.Refusal{Code: wire.RefusedRateLimited, Message: "slow down"}},
		"bad manifest": {Nonce: "n2", Status: wire.SnapshotManifest},
	}
	for name, reply := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBus(t, newPKI(t), server.RANDOM_PORT)
			b.answer(t, wire.KindSnapshot, func([]byte) any { return reply })
			l := b.open(t)
			receive(t, l.Connected(), "connected")
			got, err := l.Snapshot(t.Context(), wire.SnapshotRequest{Nonce: "n1"})
			if err == nil || got == nil || got.Nonce != "n2" {
				t.Errorf("got %+v and %v", got, err)
			}
		})
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		payload any
		want    wire.Revocation
	}{
		"wipe":       {wire.RevokedNotice{Revocation: wire.RevocationWipe}, wire.RevocationWipe},
		"unreadable": {"go away", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBus(t, newPKI(t), server.RANDOM_PORT)
			b.answer(t, wire.KindInfo, func([]byte) any { return wire.Ack{} })
			l := b.open(t)
			receive(t, l.Connected(), "connected")
			if err := l.SendInfo(t.Context(), []byte("{}")); err != nil { // the server has the subscription
				t.Fatal(err)
			}
			subject, err := wire.DownSubject(device, l.Session(), wire.KindRevoked)
			if err != nil {
				t.Fatal(err)
			}
			stop, err := json.Marshal(wire.RevokedNotice{Revocation: wire.RevocationStop})
			if err != nil {
				t.Fatal(err)
			}
			payload, err := json.Marshal(tt.payload)
			if err != nil {
				t.Fatal(err)
			}
			for _, data := range [][]byte{stop, payload} {
				if err := b.conn.Publish(subject, data); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(b.conn.Flush(), l.SendInfo(t.Context(), []byte("{}"))); err != nil {
				t.Fatal(err)
			}
			for {
				select {
				case got := <-l.Revocations():
					if got == wire.RevocationStop {
						continue // the first, taken before the second came
					}
					if got != tt.want {
						t.Errorf("got %q, want %q", got, tt.want)
					}
				case <-time.After(time.Minute):
					t.Error("no notice")
				}
				return
			}
		})
	}
}

// TestReconnectShowsTheNewCertificate: certificate and roots are asked for at
// every connection, and what became of it is told.
func TestReconnectShowsTheNewCertificate(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	b := newBus(t, p, server.RANDOM_PORT)
	c := newChanging(p)
	l, err := link.Open(link.Config{Device: device, Servers: []string{b.url()}, Credentials: c, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	c.expect(t, nil)
	c.set(newPKI(t).cert) // of another authority
	if err := l.Reconnect(); err != nil {
		t.Fatal(err)
	}
	c.expect(t, link.ErrRefused)
	c.set(p.cert)
	if err := l.Reconnect(); err != nil {
		t.Fatal(err)
	}
	c.expect(t, nil)
	if _, err := l.Server(); err != nil {
		t.Error(err)
	}
}

// TestRefusalByNATS: a server that closes the door in its own words.
func TestRefusalByNATS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	b := newServer(t, p, server.RANDOM_PORT, refuseAll{})
	c := newChanging(p)
	l, err := link.Open(link.Config{Device: device, Servers: []string{b.url()}, Credentials: c, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	for range 3 { // the client reports the first, and those after, in other ways
		c.expect(t, link.ErrRefused)
	}
	if _, err := l.Server(); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("got %v", err)
	}
}

// TestUntimelyServer: the error about the server's certificate reaches who can
// correct the clock.
func TestUntimelyServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	b := newBus(t, p, server.RANDOM_PORT)
	c := newChanging(p)
	c.now = func() time.Time { return time.Unix(0, 0) }
	l, err := link.Open(link.Config{Device: device, Servers: []string{b.url()}, Credentials: c, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	for range 2 {
		c.expectUntimely(t)
	}
}

// TestBusyServer: a server that has no time for a handshake is not one that refuses
// the device, whose certificate it has not seen.
func TestBusyServer(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.cert},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("too many handshakes") },
	})
	if err != nil {
		t.Fatal(err)
	}
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1)) // does the handshake
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-accepting })
	c := newChanging(p)
	l, err := link.Open(link.Config{Device: device, Servers: []string{"tls://" + listener.Addr().String()}, Credentials: c, Log: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	for range 2 {
		c.expect(t, link.ErrBusy)
	}
	if _, err := l.Server(); errors.Is(err, link.ErrRefused) || !errors.Is(err, link.ErrBusy) {
		t.Errorf("got %v", err)
	}
}

// Devices that wait for a busy server come back soon after it has time, but not for
// ever: something between may cut off what they say.
func TestPausesOfABusyServer(t *testing.T) {
	t.Parallel()
	busy := fmt.Errorf("%w: EOF", link.ErrBusy)
	for _, tt := range []struct {
		attempt int
		err     error
		rare    bool
		want    time.Duration
	}{
		{1, busy, false, 10 * time.Second},
		{30, busy, false, 10 * time.Second},
		{31, busy, false, 5 * time.Minute},
		{1, io.EOF, false, 5 * time.Minute},
		{1, link.ErrRefused, false, 5 * time.Minute},
		{1, busy, true, time.Hour},
	} {
		if got := link.Longest(tt.attempt, tt.err, tt.rare); got != tt.want {
			t.Errorf("attempt %d after %v: %v, want %v", tt.attempt, tt.err, got, tt.want)
		}
	}
}
