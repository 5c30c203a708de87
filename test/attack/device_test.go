package attack_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// budgetPause keeps a device that asks again within its budget.
const budgetPause = 300 * time.Millisecond

// device is an enrolled device whose client does what a test tells it.
type device struct {
	site *site
	t    testing.TB
	name string
	key  *ecdsa.PrivateKey
	cert tls.Certificate
	// Session has the id that its connection has for a name.
	deviceclient.Session

	conn *nats.Conn

	mu       sync.Mutex // guards what follows
	refusals []string
	// nonce is the newest of the server's.
	nonce string
}

// enroll lets a new device in, as the agent would.
func (s *site) enroll(t testing.TB, token, name string) *device {
	t.Helper()
	key, err := pki.NewKey()
	must(t, err)
	d := &device{site: s, t: t, name: name, key: key, Session: deviceclient.NewSession(name)}
	_, reply, err := s.post(t.Context(), s.web(), encode(t, wire.EnrollRequest{Token: token, Device: name, CSR: pkitest.CSROf(t, key)}))
	must(t, err)
	if reply.Error != nil {
		t.Fatalf("enrolling %s: %v", name, reply.Error)
	}
	d.cert, err = decodeChain(reply.Certificate, key)
	must(t, err)
	return d
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	payload, err := deviceclient.Encode(v)
	must(t, err)
	return payload
}

func (s *site) tls(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.roots, Certificates: certs, ServerName: "localhost"}
}

// dial connects to the bus. It does not reconnect, so that what the server does
// to a connection is seen.
func (s *site) dial(config *tls.Config, opts ...nats.Option) (*nats.Conn, error) {
	all := []nats.Option{nats.Secure(config), nats.NoReconnect(), nats.Timeout(waitTimeout), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
	if s.handshakeFirst {
		all = append(all, nats.TLSHandshakeFirst())
	}
	return nats.Connect("tls://"+s.ready.NATS.String(), append(all, opts...)...)
}

// connect opens the device's connection.
func (d *device) connect(opts ...nats.Option) *device {
	d.t.Helper()
	var err error
	d.conn, err = d.site.dial(d.site.tls(d.cert), append([]nats.Option{
		d.Identify,
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { d.refuse(err) }),
	}, opts...)...)
	must(d.t, err)
	return d
}

func (d *device) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refusals = append(d.refusals, err.Error())
}

// refused waits until the server has refused an operation ("publish",
// "subscription") on a subject.
func (d *device) refused(operation, subject string) {
	d.t.Helper()
	want := strings.ToLower(fmt.Sprintf("permissions violation for %s to %q", operation, subject))
	eventually(d.t, "refusing "+operation+" to "+subject, func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, r := range d.refusals {
			if strings.Contains(strings.ToLower(r), want) {
				return nil
			}
		}
		return fmt.Errorf("the server refused %.500q", d.refusals)
	})
}

// client speaks the protocol over the device's present connection.
func (d *device) client() *deviceclient.Client { return deviceclient.New(d.conn, d.Session) }

// up is a subject of the device's own.
func (d *device) up(kind wire.Kind) string { return d.message(kind, nil).Subject }

// inbox is a reply subject of the device's own.
func (d *device) inbox(token string) string {
	d.t.Helper()
	prefix, err := wire.InboxPrefix(d.name, d.ID)
	must(d.t, err)
	return prefix + "." + token
}

// message is one of the device's own.
func (d *device) message(kind wire.Kind, payload any) *nats.Msg {
	d.t.Helper()
	m, err := d.Message(kind, encode(d.t, payload))
	must(d.t, err)
	return m
}

// code is that of the refusal in an answer, "ok" for none.
func code(a wire.Ack) wire.RefusalCode {
	if a.Error == nil {
		return "ok"
	}
	return a.Error.Code
}

// snapshotRequest asks for everything, as a device with an empty disk does.
func (d *device) snapshotRequest() wire.SnapshotRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return wire.SnapshotRequest{Nonce: d.nonce}
}

// keep remembers the nonce of an answer.
func (d *device) keep(nonce string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if nonce != "" {
		d.nonce = nonce
	}
}

// snapshot asks for the manifest and keeps the nonce that comes with the answer.
func (d *device) snapshot(req wire.SnapshotRequest) wire.SnapshotReply {
	d.t.Helper()
	a := asked[wire.SnapshotReply](d, wire.KindSnapshot, req)
	d.keep(a.Nonce)
	return a
}

// prove makes the server take the session for the device: until then it is answered
// nothing else, and its connection does not last.
func (d *device) prove() {
	d.t.Helper()
	eventually(d.t, "proof of "+d.name, func() error {
		if a := d.snapshot(d.snapshotRequest()); a.Status == wire.SnapshotRetryLater { // on a busy machine its manifest is not ready yet
			time.Sleep(budgetPause)
			return fmt.Errorf("the answer is %+v", a)
		}
		return nil
	})
}

// manifest asks until the server has a manifest of at least so many entries.
func (d *device) manifest(entries int) *wire.Manifest {
	d.t.Helper()
	var m *wire.Manifest
	eventually(d.t, "manifest of "+d.name, func() error {
		a := d.snapshot(d.snapshotRequest())
		if a.Manifest == nil || len(a.Manifest.Entries) < entries {
			time.Sleep(budgetPause)
			return fmt.Errorf("it is %+v", a)
		}
		m = a.Manifest
		return nil
	})
	return m
}

// asked asks and wants an answer.
func asked[T any](d *device, kind wire.Kind, payload any) T {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), waitTimeout)
	defer cancel()
	a, err := deviceclient.Ask[T](ctx, d.client(), kind, payload)
	if err != nil {
		d.t.Fatalf("asking for %s: %v", kind, err)
	}
	return a
}

// request asks and wants to know whether that is refused.
func (d *device) request(kind wire.Kind, payload any) wire.Ack {
	d.t.Helper()
	return asked[wire.Ack](d, kind, payload)
}

// ask sends a request as it is.
func (d *device) ask(ctx context.Context, m *nats.Msg) (wire.Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	reply, err := d.client().Do(ctx, m)
	if err != nil {
		return wire.Ack{}, err
	}
	return wire.Decode[wire.Ack](reply, wire.MaxReply)
}

// publish sends a message as it is.
func (d *device) publish(subject, reply string, header nats.Header, payload any) {
	d.t.Helper()
	must(d.t, d.conn.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Header: header, Data: encode(d.t, payload)}))
}

// listen subscribes and hands over what comes.
func (d *device) listen(subject string) chan *nats.Msg {
	d.t.Helper()
	msgs := make(chan *nats.Msg, 1000)
	_, err := d.conn.ChanSubscribe(subject, msgs)
	must(d.t, err)
	return msgs
}

// settle returns when the server has seen everything that was sent, unless it
// closed the connection.
func (d *device) settle() { _ = d.conn.FlushTimeout(waitTimeout) }

// raw is a connection that speaks the protocol by hand.
type raw struct {
	net.Conn

	t testing.TB
	r *bufio.Reader
}

// raw opens a connection and does the handshake only.
func (s *site) raw(t testing.TB, config *tls.Config) (*raw, error) {
	t.Helper()
	plain, err := net.Dial("tcp", s.ready.NATS.String())
	must(t, err)
	must(t, plain.SetDeadline(time.Now().Add(startTimeout)))
	if !s.handshakeFirst {
		if err := skipLine(plain); err != nil { // the greeting
			return nil, err
		}
	}
	conn := tls.Client(plain, config)
	if err := conn.Handshake(); err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &raw{Conn: conn, t: t, r: bufio.NewReader(conn)}, nil
}

// skipLine reads to the end of a line, and not a byte more.
func skipLine(r io.Reader) error {
	for b := make([]byte, 1); b[0] != '\n'; {
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
	}
	return nil
}

// introduce opens a connection by hand with the device's certificate, as its
// session unless connect has another name.
func (d *device) introduce(connect string) *raw {
	d.t.Helper()
	if !strings.Contains(connect, `"name"`) {
		connect = strings.Replace(connect, "{", fmt.Sprintf(`{"name":%q,`, d.ID), 1)
	}
	r, err := d.site.raw(d.t, d.site.tls(d.cert))
	must(d.t, err)
	r.say("CONNECT %s\r\nPING\r\n", connect)
	return r
}

func (r *raw) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r, format, args...) // closed already: what was said before tells
}

// hear reads lines until one contains what is wanted, or the connection ends.
// It returns everything it read.
func (r *raw) hear(want string) (said string, ok bool) {
	for {
		line, err := r.r.ReadString('\n')
		said += line
		if strings.Contains(line, want) {
			return said, true
		}
		if err != nil {
			return said, false
		}
	}
}

// discard reads and forgets what comes until the returned function is called,
// which ends the connection.
func (r *raw) discard() (end func()) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, r.r) }) // the end of the connection ends it
	return func() { _ = r.Close(); wg.Wait() }
}
