package deviceclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const device = "pi-1"

// bus is a NATS server with a connection of fleet-server's.
type bus struct {
	t    *testing.T
	url  string
	conn *nats.Conn
}

func newBus(t *testing.T) *bus {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready")
	}
	b := &bus{t: t, url: srv.ClientURL()}
	b.conn = b.connect()
	return b
}

func (b *bus) connect(options ...nats.Option) *nats.Conn {
	b.t.Helper()
	conn, err := nats.Connect(b.url, options...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(conn.Close)
	return conn
}

// client connects as a new session.
func (b *bus) client() *deviceclient.Client {
	b.t.Helper()
	s := deviceclient.NewSession(device)
	return deviceclient.New(b.connect(s.Identify), s)
}

// answer replies to one kind, and passes on what was asked.
func (b *bus) answer(kind wire.Kind, reply any) (asked chan *nats.Msg) {
	b.t.Helper()
	asked = make(chan *nats.Msg, 10)
	_, err := b.conn.Subscribe(strings.TrimSuffix(wire.UpWildcard, "*")+string(kind), func(m *nats.Msg) {
		payload, err := json.Marshal(reply)
		if err != nil {
			b.t.Error(err)
		}
		asked <- m
		if m.Reply != "" {
			_ = m.Respond(payload)
		}
	})
	if err = errors.Join(err, b.conn.Flush()); err != nil {
		b.t.Fatal(err)
	}
	return asked
}

// Everything that devices and servers say to each other has a method.
func TestEveryVerbHasAMethod(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c, ctx := b.client(), t.Context()
	body := []byte("body")
	hash := wire.Sum(body).String()
	replies := map[wire.Kind]any{
		wire.KindSnapshot: wire.SnapshotReply{Status: wire.SnapshotNotModified},
		wire.KindBody:     wire.BodyReply{Size: len(body), Data: body},
		wire.KindSecret:   wire.SecretReply{Data: map[string][]byte{"k": []byte("v")}},
		wire.KindRegistry: wire.RegistryReply{User: "u"},
	}
	ups := map[wire.Kind]func() error{
		wire.KindSnapshot:  func() error { _, err := c.Snapshot(ctx, wire.SnapshotRequest{}); return err },
		wire.KindBody:      func() error { _, err := c.Body(ctx, hash, len(body)); return err },
		wire.KindInfo:      func() error { return c.SendInfo(ctx, []byte("{}")) },
		wire.KindState:     func() error { return c.SendState(ctx, []byte("{}")) },
		wire.KindHeartbeat: func() error { return c.Heartbeat(wire.Heartbeat{At: 1}) },
		wire.KindSecret: func() error {
			_, _, err := c.Secret(ctx, wire.DeploymentRef{Namespace: "default", Name: "web"}, "db")
			return err
		},
		wire.KindRegistry: func() error { _, err := c.Registry(ctx); return err },
	}
	heard := make(chan wire.Kind, 10)
	downs := map[wire.Kind]error{
		wire.KindNudge:   c.OnNudge(func() { heard <- wire.KindNudge }),
		wire.KindRevoked: c.OnRevoked(func(wire.RevokedNotice, error) { heard <- wire.KindRevoked }),
	}
	for _, v := range wire.Verbs {
		if v.Direction == wire.Up {
			b.speaks(c, v.Kind, replies[v.Kind], ups[v.Kind])
			continue
		}
		if err, listens := downs[v.Kind]; err != nil || !listens {
			t.Fatalf("nobody can listen to %s: %v", v.Kind, err)
		}
		b.hears(c, v.Kind, heard)
	}
}

// speaks checks that call sends a message of a kind, as a message of the session.
func (b *bus) speaks(c *deviceclient.Client, kind wire.Kind, reply any, call func() error) {
	b.t.Helper()
	if call == nil {
		b.t.Fatalf("no method sends %s", kind)
	}
	asked := b.answer(kind, reply)
	if err := call(); err != nil {
		b.t.Errorf("%s: %v", kind, err)
	}
	m := next(b.t, asked)
	subject, err := wire.UpSubject(device, kind)
	if err != nil || m.Subject != subject || !slices.Equal(m.Header[wire.HeaderSession], []string{c.ID}) || len(m.Header) != 1 {
		b.t.Errorf("%s is sent to %s with %v: %v", kind, m.Subject, m.Header, err)
	}
	if answered := kind.Verb().MaxReply > 0; answered != (m.Reply != "") || answered && !wire.IsReplyOf(device, c.ID, m.Reply) {
		b.t.Errorf("%s wants its reply at %q", kind, m.Reply)
	}
}

// hears checks that the client hears a message of a kind.
func (b *bus) hears(c *deviceclient.Client, kind wire.Kind, heard chan wire.Kind) {
	b.t.Helper()
	subject, err := wire.DownSubject(device, c.ID, kind)
	if err != nil {
		b.t.Fatal(err)
	}
	// An answered request proves that the server has the subscriptions.
	if err := c.SendInfo(b.t.Context(), []byte("{}")); err != nil {
		b.t.Fatal(err)
	}
	if err := b.conn.Publish(subject, []byte("{}")); err != nil {
		b.t.Fatal(err)
	}
	if got := next(b.t, heard); got != kind {
		b.t.Errorf("it hears %s, not %s", got, kind)
	}
}

func next[T any](t *testing.T, from chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(time.Minute):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// Tests send what no device would: any payload on any verb, with any header.
func TestMessagesAsTheyAre(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := b.client()
	refusal := &wire.Refusal{Code: wire.RefusedBadRequest, Message: "no"}
	for _, kind := range wire.Kinds {
		asked := b.answer(kind, wire.Ack{Error: refusal})
		m, err := c.Message(kind, make([]byte, kind.Verb().MaxRequest+1))
		if err != nil {
			t.Fatal(err)
		}
		m.Header["X"] = []string{"y"}
		if kind.Verb().MaxReply == 0 {
			err = c.Publish(m)
		} else {
			_, err = c.Do(t.Context(), m)
		}
		if got := next(t, asked); err != nil || len(got.Data) != len(m.Data) || !cmp.Equal(got.Header, m.Header) {
			t.Errorf("%s: %d bytes and %v arrive: %v", kind, len(got.Data), got.Header, err)
		}
	}
	ack, err := deviceclient.Ask[wire.Ack](t.Context(), c, wire.KindState, []byte("no JSON"))
	if err != nil || !cmp.Equal(ack.Error, refusal) {
		t.Errorf("the refusal is %+v, %v", ack.Error, err)
	}
	if err := c.SendState(t.Context(), make([]byte, wire.KindState.Verb().MaxRequest+1)); !errors.Is(err, wire.ErrPayload) {
		t.Errorf("a device sends too much: %v", err)
	}
}

// A gateway that sends a body byte by byte is not asked as often as the body has bytes.
func TestPiecesOfABodyHaveASize(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	c := b.client()
	body := make([]byte, 4<<10)
	asked := b.answer(wire.KindBody, wire.BodyReply{Size: len(body), Data: body[:1]})
	if _, err := c.Body(t.Context(), wire.Sum(body).String(), len(body)); !errors.Is(err, deviceclient.ErrBody) || len(asked) != 1 {
		t.Errorf("%v after %d requests", err, len(asked))
	}
}

func TestSessionsDiffer(t *testing.T) {
	t.Parallel()
	a, b := deviceclient.NewSession(device), deviceclient.NewSession(device)
	if a.ID == b.ID || !wire.ValidSession(a.ID) {
		t.Errorf("sessions %q and %q", a.ID, b.ID)
	}
	if _, err := nats.Connect("nats://127.0.0.1:1", deviceclient.Session{Device: "Pi.1", ID: a.ID}.Identify); err == nil || errors.Is(err, nats.ErrNoServers) {
		t.Errorf("a bad name connects: %v", err)
	}
}

func TestDisconnected(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	s := deviceclient.NewSession(device)
	conn := b.connect(s.Identify)
	c := deviceclient.New(conn, s)
	if _, err := c.Registry(t.Context()); err == nil || errors.Is(err, deviceclient.ErrDisconnected) {
		t.Errorf("nobody answers: %v", err)
	}
	conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := c.Snapshot(ctx, wire.SnapshotRequest{}); !errors.Is(err, deviceclient.ErrDisconnected) {
		t.Errorf("got %v", err)
	}
}
