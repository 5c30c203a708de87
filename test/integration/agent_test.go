package integration_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// agentIdentity is what a real agent keeps of its identity, on a machine whose
// clock is ten years ahead.
type agentIdentity struct {
	*server
	store *store.Store
	clock *clock.Clock
	told  chan wire.Revocation
}

func (s *server) agentIdentity(name, token string) *agentIdentity {
	s.t.Helper()
	state, err := store.Open(filepath.Join(s.t.TempDir(), "state"), slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	a := &agentIdentity{
		server: s, store: state, told: make(chan wire.Revocation, 1),
		clock: clock.New(clock.Config{Keeper: state, System: func() time.Time { return time.Now().AddDate(10, 0, 0) }}),
	}
	key, err := keystore.File{}.Create()
	if err != nil {
		s.t.Fatal(err)
	}
	got, err := enroll.Enroll(s.t.Context(), enroll.Request{Server: s.enrollURL(), Token: token, Device: name, Key: key, Clock: a.clock})
	if err != nil {
		s.t.Fatal(err)
	}
	a.save(&store.Identity{
		Device: name, Enrollment: store.NewEnrollment(), Server: s.enrollURL(),
		Key: key.Text(), Certificate: got.Certificate, Root: got.Root, Servers: got.Servers,
	})
	return a
}

func (a *agentIdentity) save(id *store.Identity) {
	a.t.Helper()
	if err := a.store.SaveIdentity(id); err != nil {
		a.t.Fatal(err)
	}
}

// open opens an agent's credentials and its link.
func (a *agentIdentity) open(log *slog.Logger) (*credential.Manager, *link.Link) {
	a.t.Helper()
	m, err := credential.Load(credential.Config{Store: a.store, Keys: keystore.File{}, Clock: a.clock, Server: credential.Listener{}, Log: log})
	if err != nil {
		a.t.Fatal(err)
	}
	l, err := link.Open(link.Config{Device: m.Identity().Device, Servers: m.Identity().Servers, Credentials: m, Log: log})
	if err != nil {
		a.t.Fatal(err)
	}
	return m, l
}

// connect starts an agent's link and credentials, until the end of the test.
func (a *agentIdentity) connect() *link.Link {
	a.t.Helper()
	m, l := a.open(slog.New(slog.NewTextHandler(a.t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx, l, func(r wire.Revocation) { a.told <- r; <-ctx.Done() })
	}()
	a.t.Cleanup(func() { cancel(); <-done; l.Close() })
	a.await(l.Connected(), "a connection")
	return l
}

func (a *agentIdentity) await(c <-chan struct{}, what string) {
	a.t.Helper()
	select {
	case <-c:
	case <-time.After(waitTimeout):
		a.t.Fatalf("no %s", what)
	}
}

func (a *agentIdentity) awaitRevocation(c <-chan wire.Revocation, want wire.Revocation) {
	a.t.Helper()
	select {
	case got := <-c:
		if got != want {
			a.t.Errorf("told %q, want %q", got, want)
		}
	case <-time.After(waitTimeout):
		a.t.Fatal("not told")
	}
}

// TestAgentWithAWrongClock enrolls, connects, keeps the server's nonce, and
// renews its certificate, ten years ahead of the server.
func TestAgentWithAWrongClock(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a := s.agentIdentity("edge-1", s.token(nil))
	l := a.connect()
	if d := time.Since(a.clock.Now()).Abs(); d > time.Minute {
		t.Errorf("the clock is %v off", d)
	}
	var nonce string
	wait.For(t, "a nonce", waitTimeout, snapshotPace, func() error {
		reply, err := l.Snapshot(t.Context(), wire.SnapshotRequest{Nonce: nonce})
		if reply != nil && reply.Nonce != "" {
			nonce = reply.Nonce
		}
		if err == nil && nonce == "" {
			err = errors.New("none yet")
		}
		return err
	})
	if _, err := l.Snapshot(t.Context(), wire.SnapshotRequest{Nonce: nonce}); err != nil {
		t.Error(err)
	}
	l.Close()
	id, err := a.store.Identity()
	if err != nil {
		t.Fatal(err)
	}
	a.save(a.renewed(id))
	a.connect()
}

// renewed is an identity with its next key and certificate.
func (a *agentIdentity) renewed(id *store.Identity) *store.Identity {
	a.t.Helper()
	present, err := keystore.File{}.Load(id.Key)
	if err != nil {
		a.t.Fatal(err)
	}
	next, err := keystore.File{}.Create()
	if err != nil {
		a.t.Fatal(err)
	}
	cert, _, err := id.TLS(present)
	if err != nil {
		a.t.Fatal(err)
	}
	got, err := enroll.Renew(a.t.Context(), enroll.Renewal{Server: id.Server, Device: id.Device, Present: cert, Next: next, Root: id.Root, Clock: a.clock})
	if err != nil {
		a.t.Fatal(err)
	}
	renewed := *id
	renewed.Key, renewed.Certificate, renewed.Root = next.Text(), got.Certificate, got.Root
	return &renewed
}

// TestAgentLearnsOfItsRevocation: from the connection, and, after it, from the
// listener that it asks why it is refused.
func TestAgentLearnsOfItsRevocation(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	a := s.agentIdentity("edge-1", s.token(nil))
	l := a.connect()
	if _, err := l.Snapshot(t.Context(), wire.SnapshotRequest{}); err != nil {
		t.Fatal(err)
	}
	s.editDevice("edge-1", func(d *v1alpha1.Device) {
		d.Spec.Revoked, d.Spec.OnRevoke = true, v1alpha1.RevocationPolicy(wire.RevocationStop)
	})
	a.awaitRevocation(l.Revocations(), wire.RevocationStop)
	a.awaitRevocation(a.told, wire.RevocationStop)
}
