package broker_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// violations collects what the server refuses to a connection.
type violations struct {
	mu   sync.Mutex // guards seen
	seen []string
}

func (v *violations) option() nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.seen = append(v.seen, err.Error())
	})
}

// wait waits until the server has refused what is about the subject.
func (v *violations) wait(t testing.TB, operation, subject string) {
	t.Helper()
	brokertest.Eventually(t, fmt.Sprintf("refusing %s to %s", operation, subject), func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, s := range v.seen {
			if strings.Contains(strings.ToLower(s), "permissions violation for "+operation+" to "+strings.ToLower(fmt.Sprintf("%q", subject))) {
				return nil
			}
		}
		return fmt.Errorf("the server refused %q", v.seen)
	})
}

// hears subscribes the server's side to everything in the devices' account.
func hears(t testing.TB, b *brokertest.Bus) chan *nats.Msg {
	t.Helper()
	msgs := make(chan *nats.Msg, 100)
	if _, err := b.Devices.ChanSubscribe(">", msgs); err != nil {
		t.Fatal(err)
	}
	if err := b.Devices.Flush(); err != nil {
		t.Fatal(err)
	}
	return msgs
}

func TestDeviceUsesItsOwnSubjects(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	msgs := hears(t, b)
	device := b.Connect("edge-1")
	for _, kind := range wire.Kinds {
		subject, err := wire.UpSubject("edge-1", kind)
		if err != nil {
			t.Fatal(err)
		}
		if err := device.Publish(subject, []byte(kind)); err != nil {
			t.Fatal(err)
		}
		if got := <-msgs; got.Subject != subject || string(got.Data) != string(kind) {
			t.Errorf("arrived: %s %q, want %s", got.Subject, got.Data, subject)
		}
	}

	nudges := make(chan *nats.Msg, 1)
	if _, err := device.ChanSubscribe("fleet.v1.down.edge-1."+brokertest.Session+".>", nudges); err != nil {
		t.Fatal(err)
	}
	if err := device.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := b.Devices.Publish("fleet.v1.down.edge-1."+brokertest.Session+".nudge", nil); err != nil {
		t.Fatal(err)
	}
	<-nudges

	reply := make(chan string, 1)
	go func() {
		m, err := device.Request("fleet.v1.up.edge-1.snapshot", nil, 10*time.Second)
		if err != nil {
			reply <- err.Error()
			return
		}
		reply <- string(m.Data)
	}()
	for m := range msgs {
		if m.Reply != "" {
			if !wire.IsReplyOf("edge-1", brokertest.Session, m.Reply) {
				t.Errorf("reply subject is %q", m.Reply)
			}
			if err := m.Respond([]byte("answer")); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if got := <-reply; got != "answer" {
		t.Errorf("reply is %q", got)
	}
}

func TestDeviceIsConfined(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	if _, err := b.Buckets.DesiredState.Put(t.Context(), "edge-2.shop.web", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	msgs := hears(t, b)
	v := &violations{}
	device := b.Connect("edge-1", v.option())
	// Not the other device's, not the buckets', not the server's, no pattern.
	for _, subject := range []string{
		"fleet.v1.up.edge-2.state", "fleet.v1.up.edge-1", "fleet.v1.up.edge-11.state", "fleet.v1.down.edge-1.nudge", "fleet.v1.down.edge-2.nudge",
		brokertest.Inbox("edge-1") + ".x", "_INBOX_edge-1.x", "_INBOX_edge-2.x", "_INBOX.x",
		"$JS.API.INFO", "$JS.API.STREAM.INFO.KV_desired-state", "$JS.API.STREAM.MSG.GET.KV_desired-state",
		"$JS.API.DIRECT.GET.KV_desired-state.$KV.desired-state.edge-2.shop.web", "$JS.API.CONSUMER.CREATE.KV_desired-state",
		"$KV.desired-state.edge-1.shop.web", "$KV.desired-state.edge-2.shop.web", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.DEV.CONNZ", "anything",
	} {
		if err := device.Publish(subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
		v.wait(t, "publish", subject)
	}
	for _, subject := range []string{
		">", "*", "fleet.>", "fleet.v1.up.edge-1.>", "fleet.v1.up.*.state", "fleet.v1.down.*.nudge", "fleet.v1.down.>", "fleet.v1.down.edge-2.nudge",
		// What every session of the device would hear.
		"fleet.v1.down.edge-1.>", "fleet.v1.down.edge-1.*.nudge", "fleet.v1.down.edge-1.nudge", "_INBOX_edge-1.>", "_INBOX_edge-1_*.>",
		"fleet.v1.down.edge-1.00000000000000b2.>", "_INBOX_edge-1_00000000000000b2.>", brokertest.Inbox("edge-2") + ".>",
		"_INBOX_edge-2.>", "_INBOX_*.>", "_INBOX.>", "_R_.>", "$JS.>", "$KV.>", "$SYS.>", "$SYS.ACCOUNT.*.CONNECT",
	} {
		if _, err := device.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		v.wait(t, "subscription", subject)
	}
	if len(msgs) > 0 {
		t.Errorf("arrived: %+v", <-msgs)
	}
	if diff := cmp.Diff(map[string]string{"edge-2.shop.web": "theirs"}, brokertest.Content(t.Context(), t, b.Buckets.DesiredState)); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
}

// A message with headers that mean something to JetStream, on the only
// subjects where a device may publish, must stay a message.
func TestHeadersOpenNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	if _, err := b.Buckets.DesiredState.Put(t.Context(), "edge-2.shop.web", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	msgs := hears(t, b)
	device := b.Connect("edge-1")
	m := nats.NewMsg("fleet.v1.up.edge-1.state")
	m.Reply = "$KV.desired-state.edge-2.shop.web"
	m.Header.Set("Nats-Rollup", "all")
	if err := device.PublishMsg(m); err != nil {
		t.Fatal(err)
	}
	<-msgs
	if diff := cmp.Diff(map[string]string{"edge-2.shop.web": "theirs"}, brokertest.Content(t.Context(), t, b.Buckets.DesiredState)); diff != "" {
		t.Errorf("bucket (-want +got):\n%s", diff)
	}
}

func TestOnlyDevicesGetIn(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	enrolled := b.Enroll("edge-1")
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	uri, err := wire.DeviceURI(brokertest.Fleet, "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.Load(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// issue signs what the device has been issued, for its own key, with a change.
	issue := func(a *pki.Authority, now time.Time, change func(*x509.Certificate)) tls.Certificate {
		tmpl := &x509.Certificate{
			Subject: enrolled.Leaf.Subject, URIs: enrolled.Leaf.URIs,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		change(tmpl)
		own := enrolled.PrivateKey.(*ecdsa.PrivateKey)
		chain, err := a.Issue(tmpl, own.Public(), now, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return brokertest.Certificate(chain, own)
	}
	otherKey := func() tls.Certificate {
		chain, err := b.PKI.IssueDevice("edge-1", uri, key.Public(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return brokertest.Certificate(chain, key)
	}
	same := func(*x509.Certificate) {}
	now := time.Now()
	for name, tc := range map[string]struct {
		certificate tls.Certificate
		in          bool
	}{
		"right":                       {issue(b.PKI.Device, now, same), true},
		"no certificate":              {tls.Certificate{}, false},
		"operator authority":          {issue(b.PKI.Operator, now, same), false},
		"server authority":            {issue(b.PKI.Server, now, same), false},
		"root":                        {issue(b.PKI.Root, now, same), false},
		"device authority of another": {issue(other.Device, now, same), false},
		"expired":                     {issue(b.PKI.Device, now.Add(-2*time.Hour), same), false},
		"another key":                 {otherKey(), false},
		"for servers": {issue(b.PKI.Device, now, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), false},
		"no name":   {issue(b.PKI.Device, now, func(c *x509.Certificate) { c.URIs = nil }), false},
		"two names": {issue(b.PKI.Device, now, func(c *x509.Certificate) { c.URIs = append(c.URIs, uri) }), false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := b.Dial(tc.certificate)
			if err == nil {
				conn.Close()
			}
			if in := err == nil; in != tc.in {
				t.Errorf("gets in: %v (%v), want %v", in, err, tc.in)
			}
		})
	}
}

func TestAgedTLSIsRefused(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	for version, in := range map[uint16]bool{tls.VersionTLS12: false, tls.VersionTLS13: true} {
		config := &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: version, RootCAs: b.PKI.Root.Pool(), Certificates: []tls.Certificate{b.Enroll("edge-1")}}
		conn, err := nats.Connect(b.URL(), nats.Secure(config), nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Name(brokertest.Session))
		if err == nil {
			conn.Close()
		}
		if (err == nil) != in {
			t.Errorf("%s gets in: %v (%v)", tls.VersionName(version), err == nil, err)
		}
	}
}

// introduce speaks NATS without a client library, whose time-outs would hide
// what the server does, and returns all that the server says.
func introduce(t testing.TB, conn net.Conn, as string) string {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// Beside reading: a connection inside the process holds nothing back.
	go func() { _, _ = io.WriteString(conn, "CONNECT "+as+"\r\nPING\r\n") }()
	said, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server keeps the connection, after %q", said)
	}
	return string(said)
}

// A stranger learns nothing from the port, not even that NATS listens there.
func TestPlainTCPIsRefused(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	conn, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if said := introduce(t, conn, `{"verbose":true,"user":"CORE","pass":"x"}`); said != "" {
		t.Errorf("the server said %q", said)
	}
}

func TestConnectionsInsideTheProcessNeedTheSecret(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	for name, as := range map[string]string{
		"nothing":         `{}`,
		"a wrong secret":  `{"user":"CORE","pass":"x"}`,
		"an empty secret": `{"user":"SYS","pass":""}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := b.InProcessConn()
			if err != nil {
				t.Fatal(err)
			}
			// What comes before the server's greeting is taken for TLS.
			if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if said := introduce(t, conn, as); !strings.Contains(said, "Authorization Violation") || strings.Contains(said, "PONG") {
				t.Errorf("the server said %q", said)
			}
		})
	}
}

// What a device sends as user and password is not looked at.
func TestDeviceCannotChooseAnAccount(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	v := &violations{}
	device := b.Connect("edge-1", nats.UserInfo("CORE", "x"), v.option())
	if err := device.Publish("$JS.API.INFO", nil); err != nil {
		t.Fatal(err)
	}
	v.wait(t, "publish", "$JS.API.INFO")
}

func TestPortInUseIsSaid(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	for name, tc := range map[string]struct {
		listen, says string
		is           error
	}{
		"in use":          {b.Addr().String(), "--nats-listen", syscall.EADDRINUSE},
		"no port":         {"127.0.0.1", "host:port", nil},
		"port of letters": {"127.0.0.1:nats", "number", nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := b.Config
			c.Listen, c.StoreDir = tc.listen, t.TempDir()
			_, err := broker.Start(c)
			if err == nil || !strings.Contains(err.Error(), tc.says) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("error is %v, want one that says %q", err, tc.says)
			}
		})
	}
}

// Authorities and the serving certificate change under a running broker.
func TestRotationNeedsNoRestart(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	in := func(name string, c tls.Certificate, want bool) {
		t.Helper()
		conn, err := b.Dial(c)
		if err == nil {
			conn.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s gets in: %v (%v), want %v", name, err == nil, err, want)
		}
	}
	old, stays := b.Enroll("edge-1"), b.Connect("edge-2")
	root := b.PKI.Root.Pool()
	if err := b.PKI.Rotate(true, time.Now()); err != nil {
		t.Fatal(err)
	}
	fresh := b.Enroll("edge-3")
	in("a device from before", old, true)
	in("a device of the new authority", fresh, true)
	if _, err := b.Serving.Renew(); err != nil {
		t.Fatal(err)
	}
	in("a device that knows the new root", fresh, true)
	conn, err := tls.Dial("tcp", b.Addr().String(), &tls.Config{RootCAs: root, Certificates: []tls.Certificate{old}})
	if err != nil {
		t.Fatalf("a device that knows the old root: %v", err)
	}
	if got := conn.ConnectionState().PeerCertificates[0]; !got.Equal(b.Serving.Certificate().Leaf) {
		t.Error("the old certificate is still served")
	}
	_ = conn.Close()
	if _, _, err := b.PKI.Prune(pki.Uses{}, true, time.Now()); err != nil {
		t.Fatal(err)
	}
	in("a device of a forgotten authority", old, false)
	in("a device of the new authority", fresh, true)
	if err := stays.Flush(); err != nil {
		t.Errorf("a connection was dropped: %v", err)
	}
}
