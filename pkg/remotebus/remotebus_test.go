package remotebus_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/natskeys"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/remotebus"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
	natstest "fleet.nationtech.io/fleet/test/nats"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	session      = "00000000000000a1"
	otherSession = "00000000000000a2"

	waitTimeout  = 20 * time.Second
	pollInterval = 5 * time.Millisecond
)

// site is a NATS with everything that a bus needs.
type site struct {
	t      *testing.T
	pki    *pki.PKI
	roster *roster.Roster
	server *server.Server
	bus    *remotebus.Bus
	config remotebus.Config
	// replace changes the configuration of NATS.
	replace *strings.Replacer

	mu  sync.Mutex // guards out
	out *remotebus.Bus
}

// outside is what the roster has done: it ends connections.
type outside struct{ *site }

func (o outside) Drop(connections []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.out != nil {
		o.out.Drop(connections)
	}
}
func (outside) StatusChanged(string)               {}
func (outside) NonceShown(string)                  {}
func (outside) Leaves(string)                      {}
func (outside) Outdated(string)                    {}
func (outside) Stranger(string, string, time.Time) {}

func newSite(t *testing.T, replace ...string) *site {
	t.Helper()
	s := &site{t: t, replace: strings.NewReplacer(replace...)}
	dir := t.TempDir()
	var err error
	s.pki, err = pki.Load(filepath.Join(dir, "pki"), time.Now())
	s.must(err)
	serving, err := s.pki.Serving("nats", func() []string { return []string{"localhost", "127.0.0.1"} }, time.Now)
	s.must(err)
	tombstones, err := tombstone.Open(filepath.Join(dir, "revoked-keys.jsonl"))
	s.must(err)
	t.Cleanup(func() { s.must(tombstones.Close()) })
	s.roster = roster.New(roster.Config{Fleet: "fleet", Revoked: tombstones, Outside: outside{s}})
	_, err = natskeys.Create(dir + "/keys")
	s.must(err)
	public, err := natskeys.ReadPublic(dir + "/keys")
	s.must(err)
	pairs, err := natskeys.ReadPairs(dir + "/keys")
	s.must(err)
	s.server = natstest.Start(t, s.replace.Replace(fmt.Sprintf(`
server_name: one
listen: "127.0.0.1:-1"
accounts {
  DEV { users: [{nkey: %[1]s}] }
  CORE { jetstream: enabled, users: [{nkey: %[2]s}] }
  SYS { users: [{nkey: %[3]s}] }
}
system_account: SYS
authorization { timeout: 5, auth_callout { issuer: %[4]s, xkey: %[5]s, account: SYS, auth_users: [%[1]s, %[2]s, %[3]s] } }
jetstream { store_dir: %[6]q }
tls { cert_file: %[7]q, key_file: %[8]q, ca_file: %[9]q, verify: true, handshake_first: true }
`, public.Devices, public.Core, public.System, public.Issuer, public.XKey, filepath.Join(dir, "js"),
		serving.CertFile(), serving.KeyFile(), s.file(dir, "ca.pem", string(s.pki.Device.PEM())+string(s.pki.Operator.PEM())))))
	certPEM, keyPEM, err := s.pki.IssueOperator("fleet-server", nil, time.Now(), time.Hour)
	s.must(err)
	own, err := tls.X509KeyPair(certPEM, keyPEM)
	s.must(err)
	s.config = remotebus.Config{
		Servers: []string{s.url()}, Options: []nats.Option{nats.Secure(s.tls(own)), nats.TLSHandshakeFirst()},
		Keys: pairs, DeviceCAs: s.pki.Device, Gate: s.roster, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) file(dir, name, content string) string {
	s.t.Helper()
	path := filepath.Join(dir, name)
	s.must(os.WriteFile(path, []byte(content), 0o600))
	return path
}

func (s *site) url() string { return "tls://" + s.server.Addr().(*net.TCPAddr).String() }

func (s *site) tls(c tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.pki.Root.Pool(), Certificates: []tls.Certificate{c}}
}

// start starts the bus, and returns it.
func (s *site) start() *remotebus.Bus {
	s.t.Helper()
	b, err := remotebus.Start(s.t.Context(), s.config)
	s.must(err)
	s.t.Cleanup(b.Close)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bus, s.out = b, b
	return b
}

// enroll lets a device in and returns its certificate.
func (s *site) enroll(device string) tls.Certificate {
	s.t.Helper()
	key, err := pki.NewKey()
	s.must(err)
	uri, err := wire.DeviceURI("fleet", device)
	s.must(err)
	chain, err := s.pki.IssueDevice(device, uri, &key.PublicKey, time.Now())
	s.must(err)
	s.roster.Bind(device, roster.Keys{Current: pki.Fingerprint(chain[0].RawSubjectPublicKeyInfo)})
	return brokertest.Certificate(chain, key)
}

// dial connects with a certificate.
func (s *site) dial(c tls.Certificate, opts ...nats.Option) (*nats.Conn, error) {
	quiet := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
	return nats.Connect(s.url(), append([]nats.Option{nats.Secure(s.tls(c)), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Name(session), quiet}, opts...)...)
}

// connect enrolls a device and connects it until the end of the test.
func (s *site) connect(device string) *nats.Conn {
	s.t.Helper()
	conn, err := s.dial(s.enroll(device), nats.CustomInboxPrefix("_INBOX_"+device+"_"+session))
	s.must(err)
	s.t.Cleanup(conn.Close)
	return conn
}

func (s *site) eventually(what string, check func() error) {
	s.t.Helper()
	wait.For(s.t, what, waitTimeout, pollInterval, check)
}

// count waits until so many devices have a connection.
func (s *site) count(n int) {
	s.t.Helper()
	s.eventually("the roster knows who is there", func() error {
		if got := s.roster.Count(); got != n {
			return fmt.Errorf("%d devices are connected, want %d", got, n)
		}
		return nil
	})
}

// closed waits until a connection has ended.
func (s *site) closed(conn *nats.Conn) {
	s.t.Helper()
	s.eventually("the connection ends", func() error {
		if !conn.IsClosed() {
			return errors.New("it is open")
		}
		return nil
	})
}

// A device that enrolled comes in, says and hears what is its own, and is gone when it ends.
func TestDevicesComeIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.start()
	_, err := b.DeviceConn.Subscribe(wire.UpWildcard, func(m *nats.Msg) { _ = m.Respond([]byte("hello " + m.Subject)) })
	s.must(err)
	s.must(b.DeviceConn.Flush())
	conn := s.connect("edge-1")
	m, err := conn.Request("fleet.v1.up.edge-1.snapshot", nil, waitTimeout)
	s.must(err)
	if string(m.Data) != "hello fleet.v1.up.edge-1.snapshot" {
		t.Errorf("the answer is %q", m.Data)
	}
	if _, err := conn.Request("fleet.v1.up.edge-2.snapshot", nil, time.Second); err == nil {
		t.Error("it speaks for another device")
	}
	s.count(1)
	proof, connected := s.roster.Proof("edge-1", session)
	if !connected || proof.Key == "" || !strings.HasPrefix(proof.Address, "127.0.0.1:") {
		t.Errorf("it has shown %+v, %t", proof, connected)
	}
	conn.Close()
	s.count(0)
}

// Nobody else comes in, whatever NATS itself would let in.
func TestOnlyDevicesComeIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start()
	operatorPEM, keyPEM, err := s.pki.IssueOperator("edge-1", nil, time.Now(), time.Hour)
	s.must(err)
	operator, err := tls.X509KeyPair(operatorPEM, keyPEM)
	s.must(err)
	revoked, unbound := s.enroll("edge-2"), s.enroll("edge-3")
	s.roster.Revoke("edge-2", wire.RevocationKeep)
	s.roster.Unbind("edge-3")
	known := s.enroll("edge-4")
	for name, try := range map[string]struct {
		cert tls.Certificate
		opts []nats.Option
		// answered: else whoever has that password answers.
		answered bool
	}{
		"an operator":                       {operator, nil, true},
		"an operator who names a device":    {operator, []nats.Option{nats.UserInfo("edge-4", "")}, true},
		"a probe with another password":     {operator, []nats.Option{nats.UserInfo("fleet-probe", "guess")}, false},
		"a revoked device":                  {revoked, nil, true},
		"a device that is unknown":          {unbound, nil, true},
		"a device that names no session":    {known, []nats.Option{nats.Name("fleet-agent")}, true},
		"a device that names no session id": {known, []nats.Option{nats.Name("*")}, true},
	} {
		if conn, err := s.dial(try.cert, try.opts...); err == nil {
			conn.Close()
			t.Errorf("%s comes in", name)
		} else if try.answered && !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.count(0)
}

// A revoked device's connection ends at once, and so do those above what a device may have.
func TestConnectionsAreEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.start()
	conn := s.connect("edge-1")
	other := s.connect("edge-2")
	s.roster.Drop("edge-1")
	s.closed(conn)
	s.count(1)
	if other.IsClosed() {
		t.Error("another device's connection ends, too")
	}
}

// What was let in before, by a process that is gone, is ended: nothing is known of it. What
// this process let in is left.
func TestStrangersAreEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.start()
	before := s.connect("edge-1")
	first.Close()
	second := s.start()
	s.must(second.Sweep(t.Context()))
	s.closed(before)
	after := s.connect("edge-2")
	s.must(second.Sweep(t.Context()))
	s.must(after.Flush())
	s.count(1 + 1) // nobody told this roster of the end of the first
}

// Each mistake in the configuration of NATS is named.
func TestMistakesInTheConfiguration(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		replace []string
		mistake func(*remotebus.Config)
		want    error
	}{
		"no JetStream in the account": {[]string{"CORE { jetstream: enabled, users", "CORE { users"}, nil, remotebus.ErrNoJetStream},
		"no callout":                  {[]string{"authorization {", "# authorization {"}, nil, remotebus.ErrNoCallout},
		"another system account":      {[]string{"system_account: SYS", ""}, nil, remotebus.ErrNoSystem},
		"another issuer":              {nil, func(c *remotebus.Config) { c.Keys.Issuer, _ = nkeys.CreateAccount() }, remotebus.ErrIssuer},
		"another xkey":                {nil, func(c *remotebus.Config) { c.Keys.XKey, _ = nkeys.CreateCurveKeys() }, remotebus.ErrXKey},
		"no xkey":                     {nil, func(c *remotebus.Config) { c.Keys.XKey = nil }, remotebus.ErrXKey},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, tc.replace...)
			if tc.mistake != nil {
				tc.mistake(&s.config)
			}
			b, err := remotebus.Start(t.Context(), s.config)
			if err == nil {
				b.Close()
			}
			if !errors.Is(err, tc.want) {
				t.Errorf("it ends with %v, want %v", err, tc.want)
			}
		})
	}
}

var _ bus.Connections = (*remotebus.Bus)(nil)
