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
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/deviceapi/identity"
	"fleet.nationtech.io/fleet/pkg/pki"
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
	Registry   *identity.Registry
	Tombstones *identity.Tombstones
	// Config is what the broker was started with.
	Config broker.Config

	t testing.TB
}

// Start runs a broker on a free port until the end of the test. The observer
// may be nil.
func Start(t testing.TB, observer bus.Observer) *Bus {
	t.Helper()
	dir := t.TempDir()
	authorities, err := pki.Load(filepath.Join(dir, "pki"), time.Now())
	must(t, err)
	serving, err := authorities.Serving("gateway", func() []string { return []string{"localhost", "127.0.0.1"} }, time.Now)
	must(t, err)
	tombstones, err := identity.OpenTombstones(filepath.Join(dir, "revoked-keys.jsonl"))
	must(t, err)
	t.Cleanup(func() { must(t, tombstones.Close()) })
	registry := identity.NewRegistry(Fleet, tombstones)
	registry.SetReady()
	if observer == nil {
		observer = nobody{}
	}
	b := &Bus{t: t, PKI: authorities, Serving: serving, Registry: registry, Tombstones: tombstones, Config: broker.Config{
		Listen: "127.0.0.1:0", Certificate: serving.GetCertificate, DeviceCAs: authorities.Device, OperatorCAs: authorities.Operator, Now: time.Now,
		StoreDir: filepath.Join(dir, "nats"), Devices: registry, Observer: observer,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	b.Broker, err = broker.Start(b.Config)
	must(t, err)
	t.Cleanup(b.Shutdown)
	b.Buckets, err = bus.Open(t.Context(), b.Core)
	must(t, err)
	return b
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
	b.Registry.Bind(device, identity.Keys{Current: pki.Fingerprint(chain[0].RawSubjectPublicKeyInfo)})
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
