// Package brokertest runs a broker with a PKI and a registry of its own for
// the tests of the packages that speak to it, and connects devices to it the
// way real ones connect. Only tests may import it.
package brokertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	// Fleet is the trust domain of the registry.
	Fleet = "fleet"

	waitTimeout  = 20 * time.Second
	pollInterval = 5 * time.Millisecond
)

// Bus is a running broker.
type Bus struct {
	*broker.Broker
	Buckets    *bus.Buckets
	PKI        *pki.PKI
	Serving    *pki.Serving
	Roster     *roster.Roster
	Tombstones *tombstone.List
	// Config is what the broker was started with.
	Config broker.Config

	t       testing.TB
	outside *outside
	// ahead is how far the roster's clock is ahead, in nanoseconds.
	ahead atomic.Int64
}

// Observer learns which devices come, and when the last connection of one ends.
type Observer interface {
	DeviceConnected(device string)
	DeviceDisconnected(device string)
}

// gate tells an observer who comes.
type gate struct {
	*roster.Roster

	observer Observer
}

func (g gate) Connected(device string, c roster.Connection) (bool, error) {
	crowded, err := g.Roster.Connected(device, c)
	if err == nil {
		g.observer.DeviceConnected(device)
	}
	return crowded, err
}

// outside drops connections of the bus, and tells an observer whose status changes.
type outside struct {
	observer Observer

	mu  sync.Mutex // guards bus
	bus bus.Connections
}

func (o *outside) Drop(connections []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bus.Drop(connections)
}

func (o *outside) use(b bus.Connections) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bus = b
}

func (o *outside) StatusChanged(device string)      { o.observer.DeviceDisconnected(device) }
func (*outside) NonceShown(string)                  {}
func (*outside) Leaves(string)                      {}
func (*outside) Outdated(string)                    {}
func (*outside) Stranger(string, string, time.Time) {}

// Start runs a broker on a free port until the end of the test. The observer
// may be nil.
func Start(t testing.TB, observer Observer) *Bus {
	t.Helper()
	dir := t.TempDir()
	authorities, err := pki.Load(filepath.Join(dir, "pki"), time.Now())
	must(t, err)
	serving, err := authorities.Serving("gateway", func() []string { return []string{"localhost", "127.0.0.1"} }, time.Now)
	must(t, err)
	tombstones, err := tombstone.Open(filepath.Join(dir, "revoked-keys.jsonl"))
	must(t, err)
	t.Cleanup(func() { must(t, tombstones.Close()) })
	if observer == nil {
		observer = nobody{}
	}
	b := &Bus{t: t, PKI: authorities, Serving: serving, Tombstones: tombstones, outside: &outside{observer: observer}}
	b.Roster = roster.New(roster.Config{Fleet: Fleet, Revoked: tombstones, Outside: b.outside, Now: func() time.Time {
		return time.Now().Add(time.Duration(b.ahead.Load()))
	}})
	b.Config = broker.Config{
		Listen: "127.0.0.1:0", Certificate: serving.GetCertificate, DeviceCAs: authorities.Device, OperatorCAs: authorities.Operator, Now: time.Now,
		StoreDir: filepath.Join(dir, "nats"), Gate: gate{b.Roster, observer},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	b.Broker, err = broker.Start(b.Config)
	must(t, err)
	b.outside.use(b.Broker)
	t.Cleanup(b.Shutdown)
	b.Buckets, err = bus.Open(t.Context(), b.Core, 1)
	must(t, err)
	return b
}

// Use makes another broker the one that devices connect to and that the roster drops
// connections of.
func (b *Bus) Use(other *broker.Broker) {
	b.Broker = other
	b.outside.use(other)
}

// Pass lets time pass for the roster.
func (b *Bus) Pass(d time.Duration) { b.ahead.Add(int64(d)) }

// Prove makes a session of a device that is connected the current one.
func (b *Bus) Prove(device, session string) {
	b.t.Helper()
	_, err := b.Roster.Snapshot(device, session, roster.Claim{Epoch: "e1"})
	must(b.t, err)
}

// URL is where devices connect.
func (b *Bus) URL() string { return "tls://" + b.Addr().String() }

// Enroll lets a device in and returns its certificate.
func (b *Bus) Enroll(device string) tls.Certificate {
	b.t.Helper()
	key, err := pki.NewKey()
	must(b.t, err)
	uri, err := wire.DeviceURI(Fleet, device)
	must(b.t, err)
	chain, err := b.PKI.IssueDevice(device, uri, &key.PublicKey, time.Now())
	must(b.t, err)
	b.Roster.Bind(device, roster.Keys{Current: pki.Fingerprint(chain[0].RawSubjectPublicKeyInfo)})
	return Certificate(chain, key)
}

// Certificate puts a chain and its key into the form that TLS wants.
func Certificate(chain []*x509.Certificate, key *ecdsa.PrivateKey) tls.Certificate {
	c := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, cert := range chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// Session is that of the connections that Connect and Dial make, unless an option
// names another.
const Session = "00000000000000a1"

// Inbox is the prefix of the inbox that a device has in that session.
func Inbox(device string) string { return "_INBOX_" + device + "_" + Session }

// Connect enrolls a device and connects it until the end of the test.
func (b *Bus) Connect(device string, opts ...nats.Option) *nats.Conn {
	b.t.Helper()
	conn, err := b.Dial(b.Enroll(device), append([]nats.Option{nats.CustomInboxPrefix(Inbox(device))}, opts...)...)
	must(b.t, err)
	b.t.Cleanup(conn.Close)
	return conn
}

// Dial connects with a certificate. It does not reconnect, so that what the
// server does to a connection is seen.
func (b *Bus) Dial(c tls.Certificate, opts ...nats.Option) (*nats.Conn, error) {
	b.t.Helper()
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: b.PKI.Root.Pool(), Certificates: []tls.Certificate{c}}
	// What the server refuses is for the test to look at, not for its output.
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	return nats.Connect(b.URL(), append([]nats.Option{nats.Secure(config), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Name(Session), quiet}, opts...)...)
}

// Eventually waits until check returns nil.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	wait.For(t, what, waitTimeout, pollInterval, check)
}

// Put writes a value into a bucket.
func Put(t testing.TB, kv jetstream.KeyValue, key, value string) {
	t.Helper()
	_, err := kv.Put(t.Context(), key, []byte(value))
	must(t, err)
}

// Content returns what a bucket holds.
func Content(ctx context.Context, t testing.TB, kv jetstream.KeyValue) map[string]string {
	t.Helper()
	held := map[string]string{}
	must(t, bus.Load(ctx, kv, func(key string, value []byte) { held[key] = string(value) }))
	return held
}

type nobody struct{}

func (nobody) DeviceConnected(string)    {}
func (nobody) DeviceDisconnected(string) {}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
