package broker_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/roster"
)

// recorder is an observer that remembers what it is told.
type recorder struct {
	mu   sync.Mutex // guards told
	told []string
}

func (r *recorder) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, s)
}

func (r *recorder) DeviceConnected(device string)    { r.add(device + " came") }
func (r *recorder) DeviceDisconnected(device string) { r.add(device + " went") }

// wait waits until the observer was told exactly this.
func (r *recorder) wait(t testing.TB, want ...string) {
	t.Helper()
	brokertest.Eventually(t, "what the observer is told", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if diff := cmp.Diff(want, r.told); diff != "" {
			return fmt.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
}

// faulty makes a mistake when the first device comes, and another when the second goes.
type faulty struct{}

func (faulty) DeviceConnected(device string) {
	if device == "edge-1" {
		panic("a mistake")
	}
}

func (faulty) DeviceDisconnected(device string) {
	if device == "edge-2" {
		panic("another mistake")
	}
}

// A mistake of the program costs the connection that it was made with.
func TestAMistakeCostsOneConnection(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, faulty{})
	cert := b.Enroll("edge-1")
	if c, err := b.Dial(cert); err == nil {
		c.Close()
		t.Error("a connection is let in that was not finished with")
	}
	devices(t, b, 0)
	b.Connect("edge-2").Close()
	devices(t, b, 0)
	b.Connect("edge-3").Close()
	devices(t, b, 0)
}

// session is a connection that tells when it ends.
type session struct {
	*nats.Conn
	closed chan struct{}
}

func open(t testing.TB, dial func(...nats.Option) (*nats.Conn, error)) session {
	t.Helper()
	s := session{closed: make(chan struct{})}
	conn, err := dial(nats.ClosedHandler(func(*nats.Conn) { close(s.closed) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	s.Conn = conn
	return s
}

func devices(t testing.TB, b *brokertest.Bus, want int) {
	t.Helper()
	brokertest.Eventually(t, "the number of devices", func() error {
		if n := b.Roster.Count(); n != want {
			return fmt.Errorf("it is %d, want %d", n, want)
		}
		return nil
	})
}

func TestThirdSessionDropsTheOldest(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	b := brokertest.Start(t, r)
	c := b.Enroll("edge-1")
	dial := func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) }
	first, second := open(t, dial), open(t, dial)
	for _, s := range []session{first, second} {
		if err := s.Flush(); err != nil {
			t.Errorf("two sessions are allowed: %v", err)
		}
	}
	third := open(t, dial)
	<-first.closed
	for _, s := range []session{second, third} {
		if err := s.Flush(); err != nil {
			t.Errorf("a younger session was dropped: %v", err)
		}
	}
	devices(t, b, 1)
	second.Close()
	third.Close()
	devices(t, b, 0)
	r.wait(t, "edge-1 came", "edge-1 came", "edge-1 came", "edge-1 went")
}

func TestDisconnectDropsOneDevice(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	b := brokertest.Start(t, r)
	c := b.Enroll("edge-1")
	dial := func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) }
	first, second := open(t, dial), open(t, dial)
	other := b.Connect("edge-2")
	devices(t, b, 2)
	b.Roster.Drop("edge-1")
	<-first.closed
	<-second.closed
	devices(t, b, 1)
	r.wait(t, "edge-1 came", "edge-1 came", "edge-2 came", "edge-1 went")
	if err := other.Flush(); err != nil {
		t.Errorf("another device was dropped: %v", err)
	}
	b.Roster.Drop("edge-1") // nothing to do
	b.Roster.Drop("nobody")

	// Nothing keeps it from coming back but its revocation.
	b.Roster.Unbind("edge-1")
	if conn, err := dial(); err == nil {
		conn.Close()
		t.Error("an unbound device gets in")
	} else if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the refusal is %v", err)
	}
	devices(t, b, 1)
}

func TestOneOfTwoSessionsEndsQuietly(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	b := brokertest.Start(t, r)
	c := b.Enroll("edge-1")
	dial := func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) }
	first, second := open(t, dial), open(t, dial)
	first.Close()
	b.Connect("edge-2").Close()
	r.wait(t, "edge-1 came", "edge-1 came", "edge-2 came", "edge-2 went") // the end of the first was seen before
	second.Close()
	r.wait(t, "edge-1 came", "edge-1 came", "edge-2 came", "edge-2 went", "edge-1 went")
}

// NATS tells of the end of a connection later: what came at once must not hide
// behind what is being dropped.
func TestManyConnectionsAtOnceLeaveTwo(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	conns := make(chan *nats.Conn, 60)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 10 {
				if conn, err := b.Dial(c, nats.Name("0123456789abcdef")); err == nil {
					conns <- conn
				}
			}
		})
	}
	wg.Wait()
	close(conns)
	var all []*nats.Conn
	for conn := range conns {
		t.Cleanup(conn.Close)
		all = append(all, conn)
	}
	brokertest.Eventually(t, "two connections are left", func() error {
		open := 0
		for _, conn := range all {
			if conn.IsConnected() {
				open++
			}
		}
		if open > 2 {
			return fmt.Errorf("%d of %d are open", open, len(all))
		}
		return nil
	})
}

// revoker revokes a device at the moment at which it was found to be good.
type revoker struct{ *roster.Roster }

// AuthenticateDevice implements bus.Gate.
func (r revoker) AuthenticateDevice(cert *x509.Certificate, session, address string) (string, error) {
	device, err := r.Roster.AuthenticateDevice(cert, session, address)
	r.Revoke(device, "")
	r.Drop(device)
	return device, err
}

func TestRevokedWhileItComesIn(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	certificate := b.Enroll("edge-1")
	config := b.Config
	config.Gate, config.StoreDir = revoker{b.Roster}, t.TempDir()
	doubting, err := broker.Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(doubting.Shutdown)
	b.Use(doubting)
	if c, err := b.Dial(certificate); err == nil {
		c.Close()
		t.Error("a revoked device is connected")
	}
	devices(t, b, 0)
}

// until opens a connection of a device, for its own key, with a certificate that
// expires at a time.
func until(t testing.TB, b *brokertest.Bus, enrolled tls.Certificate, expires time.Time) session {
	t.Helper()
	tmpl := &x509.Certificate{
		Subject: enrolled.Leaf.Subject, URIs: enrolled.Leaf.URIs,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	key := enrolled.PrivateKey.(*ecdsa.PrivateKey)
	now := time.Now()
	chain, err := b.PKI.Device.Issue(tmpl, key.Public(), now, expires.Sub(now))
	if err != nil {
		t.Fatal(err)
	}
	return open(t, func(opts ...nats.Option) (*nats.Conn, error) {
		return b.Dial(brokertest.Certificate(chain, key), opts...)
	})
}

// TLS looks at a certificate when a connection begins. One that outlives it is
// ended; others of the same device stay.
func TestConnectionsEndWithTheirCertificate(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	b := brokertest.Start(t, r)
	soon := time.Now().Add(time.Hour).Truncate(time.Second) // as certificates have it
	late := soon.Add(2 * time.Hour)
	alone, renewed, other := b.Enroll("alone"), b.Enroll("renewed"), b.Enroll("other")
	ends := []session{until(t, b, alone, soon), until(t, b, renewed, soon)}
	stay := []session{until(t, b, renewed, late), until(t, b, other, late)}
	flush := func(when string, all ...session) {
		t.Helper()
		for _, s := range all {
			if err := s.Flush(); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
	}
	for name, now := range map[string]time.Time{"now": time.Now(), "at the last moment": soon} {
		if dropped := b.Roster.DropExpired(now); len(dropped) > 0 {
			t.Fatalf("%s: %v are dropped", name, dropped)
		}
	}
	flush("before", append(ends, stay...)...)

	dropped := b.Roster.DropExpired(soon.Add(time.Second))
	slices.Sort(dropped)
	if diff := cmp.Diff([]string{"alone", "renewed"}, dropped); diff != "" {
		t.Fatalf("dropped (-want +got):\n%s", diff)
	}
	for _, s := range ends {
		<-s.closed
	}
	r.wait(t, "alone came", "renewed came", "renewed came", "other came", "alone went")
	flush("afterwards", stay...)
	devices(t, b, 2)
	brokertest.Eventually(t, "nobody is left to be dropped", func() error {
		if dropped := b.Roster.DropExpired(soon.Add(time.Second)); len(dropped) > 0 {
			return fmt.Errorf("%v are dropped again", dropped)
		}
		return nil
	})
	flush("at last", stay...)
}

// What is sent to one session is heard by no other of the same device.
func TestSessionsDoNotHearEachOther(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	const copied = "00000000000000b2"
	heard := make(chan *nats.Msg, 10)
	dial := func(id string) *nats.Conn {
		conn := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, append(opts, nats.Name(id))...) })
		return conn.Conn
	}
	device, thief := dial(brokertest.Session), dial(copied)
	for _, subject := range []string{
		"_INBOX_edge-1.>", "_INBOX_edge-1_*.>", "_INBOX_*.>", brokertest.Inbox("edge-1") + ".>", "fleet.v1.down.edge-1.>", "fleet.v1.down.edge-1.*.nudge",
		"fleet.v1.down.edge-1.nudge", "fleet.v1.down.edge-1." + brokertest.Session + ".>", ">",
	} {
		if _, err := thief.ChanSubscribe(subject, heard); err != nil {
			t.Fatal(err)
		}
	}
	control := make(chan *nats.Msg, 10)
	sent := []string{brokertest.Inbox("edge-1") + ".secret", "fleet.v1.down.edge-1." + brokertest.Session + ".nudge"}
	for _, subject := range sent {
		if _, err := device.ChanSubscribe(subject, control); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range []*nats.Conn{device, thief} {
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range sent {
		if err := b.Devices.Publish(subject, []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		<-control
	}
	if err := thief.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("a copy hears %s", (<-heard).Subject)
	}
}

// An agent that names no session could hear what all of them hear, in older
// versions. It is refused.
func TestNoSessionNoConnection(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	for _, name := range []string{"", "agent", "0123", "00000000000000a1.>"} {
		if conn, err := b.Dial(c, nats.Name(name)); !errors.Is(err, nats.ErrAuthorization) {
			conn.Close()
			t.Errorf("%q: error %v", name, err)
		}
	}
}

// Whoever connects and never proves that it is the device does not stay.
func TestUnprovenConnectionsEnd(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	c := b.Enroll("edge-1")
	dial := func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(c, opts...) }
	device := open(t, dial)
	silent := open(t, func(opts ...nats.Option) (*nats.Conn, error) {
		return dial(append(opts, nats.Name("00000000000000b2"))...)
	})
	b.Prove("edge-1", brokertest.Session)
	if dropped := b.Roster.DropUnproven(time.Minute); len(dropped) > 0 {
		t.Errorf("%v were dropped at once", dropped)
	}
	b.Pass(time.Hour)
	if diff := cmp.Diff([]string{"edge-1"}, b.Roster.DropUnproven(time.Minute)); diff != "" {
		t.Errorf("dropped (-want +got):\n%s", diff)
	}
	<-silent.closed
	if err := device.Flush(); err != nil {
		t.Errorf("the device was dropped: %v", err)
	}
}

// The connections of a key that was replaced end, those of its successor stay.
func TestConnectionsOfOneKeyAreLeft(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	before := b.Enroll("edge-1")
	old := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(before, opts...) })
	after := b.Enroll("edge-1")
	renewed := open(t, func(opts ...nats.Option) (*nats.Conn, error) { return b.Dial(after, opts...) })
	proof, connected := b.Roster.Proof("edge-1", brokertest.Session)
	if want := pki.Fingerprint(after.Leaf.RawSubjectPublicKeyInfo); !connected || proof.Key != want || !proof.Expires.Equal(after.Leaf.NotAfter) || proof.Address == "" {
		t.Fatalf("proof %+v, want key %s", proof, want)
	}
	b.Roster.DropOtherKeys("edge-1", proof.Key)
	<-old.closed
	if err := renewed.Flush(); err != nil {
		t.Errorf("the device was dropped: %v", err)
	}
}
