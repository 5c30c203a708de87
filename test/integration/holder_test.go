package integration_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// holder is a device that speaks the protocol by hand: it holds a key, a
// certificate and a nonce.
type holder struct {
	s    *server
	name string
	key  *ecdsa.PrivateKey
	cert tls.Certificate
	// nonce is the one on its disk.
	nonce string
	// session is that of its agent, which requests to the enrollment listener name.
	session string
	// fixed is what its connections call themselves; a new session each when empty.
	fixed string
}

// holder makes a device that has a key and nothing else.
func (s *server) holder(name string) *holder {
	s.t.Helper()
	return &holder{s: s, name: name, key: newKey(s.t)}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// roots are the authorities that devices trust.
func (s *server) roots() *x509.CertPool {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.config.DataDir, "pki", "root.crt"))
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	return pool
}

// tls trusts the server, by its own clock.
func (s *server) tls() *tls.Config {
	s.t.Helper()
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.roots(), Time: s.config.Clock.Wall}
}

// post sends a request to the enrollment listener, with the certificate that
// the holder has, if any.
func (h *holder) post(path string, request any) wire.EnrollReply {
	h.s.t.Helper()
	config := h.s.tls()
	if h.cert.Certificate != nil {
		config.Certificates = []tls.Certificate{h.cert}
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	body, err := json.Marshal(request)
	if err != nil {
		h.s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(h.s.t.Context(), http.MethodPost, h.s.enrollURL()+path, bytes.NewReader(body))
	if err != nil {
		h.s.t.Fatal(err)
	}
	if h.session != "" {
		req.Header.Set(wire.HeaderSession, h.session)
	}
	r, err := (&http.Client{Transport: transport, Timeout: waitTimeout}).Do(req)
	if err != nil {
		h.s.t.Fatal(err)
	}
	defer r.Body.Close()
	var reply wire.EnrollReply
	if err := json.NewDecoder(r.Body).Decode(&reply); err != nil {
		h.s.t.Fatalf("status %d: %v", r.StatusCode, err)
	}
	return reply
}

// ask sends an enrollment request.
func (h *holder) ask(token string, change ...func(*wire.EnrollRequest)) wire.EnrollReply {
	h.s.t.Helper()
	r := wire.EnrollRequest{Token: token, Device: h.name, CSR: pkitest.CSROf(h.s.t, h.key)}
	for _, c := range change {
		c(&r)
	}
	return h.post(wire.PathEnroll, r)
}

// enroll sends an enrollment request that has to be granted.
func (h *holder) enroll(token string) *holder {
	h.s.t.Helper()
	h.take(h.ask(token), h.key)
	return h
}

// take uses the certificate of a reply.
func (h *holder) take(reply wire.EnrollReply, key *ecdsa.PrivateKey) {
	h.s.t.Helper()
	if reply.Error != nil || reply.Certificate == "" {
		h.s.t.Fatalf("device %s gets no certificate: %+v", h.name, reply)
	}
	h.key, h.cert = key, tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(reply.Certificate)); block != nil; block, rest = pem.Decode(rest) {
		h.cert.Certificate = append(h.cert.Certificate, block.Bytes)
	}
}

// renew asks for a certificate for a key.
func (h *holder) renew(key *ecdsa.PrivateKey) wire.EnrollReply {
	h.s.t.Helper()
	return h.post(wire.PathRenew, wire.RenewRequest{CSR: pkitest.CSROf(h.s.t, key)})
}

// connection is a session of a holder.
type connection struct {
	*nats.Conn

	h      *holder
	client *deviceclient.Client
	// notices are what arrives just before the end.
	notices chan wire.Revocation
	closed  chan struct{}
}

// dial connects to the bus as a new session.
func (h *holder) dial() (*connection, error) {
	config := h.s.tls()
	config.ServerName, config.Certificates = "localhost", []tls.Certificate{h.cert}
	session := deviceclient.NewSession(h.name)
	if wire.ValidSession(h.fixed) { // an agent that is too old gives another name
		session.ID = h.fixed
	}
	c := &connection{h: h, notices: make(chan wire.Revocation, 1), closed: make(chan struct{})}
	var err error
	// A client that does not reconnect forgets what came just before the end.
	c.Conn, err = nats.Connect("tls://"+h.s.ready.NATS.String(), nats.TLSHandshakeFirst(), nats.ReconnectWait(time.Hour), nats.Timeout(waitTimeout),
		nats.Secure(config),
		session.Identify, nats.Name(cmp.Or(h.fixed, session.ID)), nats.DisconnectErrHandler(func(*nats.Conn, error) { close(c.closed) }))
	c.client = deviceclient.New(c.Conn, session)
	return c, err
}

// connect opens a connection that lasts until the end of the test.
func (h *holder) connect() *connection {
	h.s.t.Helper()
	c, err := h.dial()
	if err != nil {
		h.s.t.Fatalf("device %s: %v", h.name, err)
	}
	h.s.t.Cleanup(c.Close)
	err = c.client.OnRevoked(func(notice wire.RevokedNotice, err error) {
		if err == nil {
			c.notices <- notice.Revocation
		}
	})
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		h.s.t.Fatal(err)
	}
	return c
}

// refused wants every new connection to be refused.
func (h *holder) refused() {
	h.s.t.Helper()
	c, err := h.dial()
	if err == nil {
		c.Close()
		h.s.t.Errorf("device %s is let in", h.name)
	} else if !errors.Is(err, nats.ErrAuthorization) {
		h.s.t.Errorf("device %s: %v", h.name, err)
	}
}

// send sends a request of some kind and decodes the reply.
func send[T any](c *connection, kind wire.Kind, payload any) T {
	c.h.s.t.Helper()
	ctx, cancel := context.WithTimeout(c.h.s.t.Context(), waitTimeout)
	defer cancel()
	reply, err := deviceclient.Ask[T](ctx, c.client, kind, payload)
	if err != nil {
		c.h.s.t.Fatalf("%s of %s: %v", kind, c.h.name, err)
	}
	return reply
}

// snapshot asks for the manifest, and keeps the nonce that comes with it.
func (c *connection) snapshot() wire.SnapshotReply {
	c.h.s.t.Helper()
	r := send[wire.SnapshotReply](c, wire.KindSnapshot, wire.SnapshotRequest{Nonce: c.h.nonce})
	if r.Nonce != "" {
		c.h.nonce = r.Nonce
	}
	return r
}

// snapshotPace is how often a device may ask for a snapshot without an end.
var snapshotPace = time.Duration(float64(time.Second) / wire.KindSnapshot.Verb().Rate)

// settle asks until the server takes the session for the device, and has given it a
// nonce. It asks as often as the budget lasts: on a busy machine a nonce takes its time
// to be stored.
func (c *connection) settle() {
	c.h.s.t.Helper()
	wait.For(c.h.s.t, "a nonce", waitTimeout, snapshotPace, func() error {
		r := c.snapshot()
		switch {
		case r.Error != nil:
			return r.Error
		case r.Status == wire.SnapshotRetryLater:
			return errors.New("another session is the device")
		case c.h.nonce == "":
			return errors.New("none yet")
		}
		return nil
	})
	c.snapshot() // shows it
}

// ends waits until the server has ended the connection, and returns how long
// that took.
func (c *connection) ends() time.Duration {
	c.h.s.t.Helper()
	begin := time.Now()
	select {
	case <-c.closed:
	case <-time.After(waitTimeout):
		c.h.s.t.Fatalf("the connection of %s lives on", c.h.name)
	}
	return time.Since(begin)
}

// leaves closes the connection and waits until the server knows.
func (c *connection) leaves() {
	c.h.s.t.Helper()
	c.Close()
	c.h.s.deviceCondition(c.h.name, v1alpha1.DeviceConnected, metav1.ConditionFalse)
}
