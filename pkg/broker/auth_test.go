package broker_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fleet.nationtech.io/fleet/pkg/broker"
	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
)

// ended is a connection of a device that ends while NATS asks whether it may come
// in: it has no address any more.
type ended struct {
	cert *x509.Certificate
	name string
}

func (e ended) GetOpts() *server.ClientOpts { return &server.ClientOpts{Name: e.name} }
func (e ended) RegisterUser(*server.User)   {}
func (e ended) RemoteAddress() net.Addr     { return nil }
func (e ended) GetNonce() []byte            { return nil }
func (e ended) Kind() int                   { return server.CLIENT }
func (e ended) GetID() uint64               { return 1 }
func (e ended) GetTLSConnectionState() *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{e.cert}, VerifiedChains: [][]*x509.Certificate{{e.cert, e.cert}}}
}

// A connection that ends at any moment ends itself, and not the server.
func TestConnectionThatEndsWhileItComesIn(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	check := broker.NewCheck(b.Roster, b.PKI.Operator)
	for name, client := range map[string]ended{
		"a device":            {b.Enroll("edge-1").Leaf, brokertest.Session},
		"of an old agent":     {b.Enroll("edge-2").Leaf, "fleet-agent"},
		"one that is revoked": {b.Enroll("edge-3").Leaf, brokertest.Session},
	} {
		if name == "one that is revoked" {
			b.Roster.Revoke("edge-3", "")
		}
		if check(client) {
			t.Errorf("%s comes in without a connection", name)
		}
	}
}

// A connection says once who it is. Else one that is there could become another
// session, as often as it likes.
func TestConnectionNamesOneSession(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	root := x509.NewCertPool()
	root.AppendCertsFromPEM(b.PKI.RootsPEM())
	conn, err := tls.Dial("tcp", b.Addr().String(), &tls.Config{RootCAs: root, Certificates: []tls.Certificate{b.Enroll("edge-1")}, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	for _, says := range []struct{ session, want string }{{brokertest.Session, "+OK"}, {"00000000000000b2", "-ERR"}} {
		if _, err := fmt.Fprintf(conn, "CONNECT {\"name\":%q,\"verbose\":true}\r\n", says.session); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "+OK") && !strings.HasPrefix(lines.Text(), "-ERR") {
		}
		if !strings.HasPrefix(lines.Text(), says.want) {
			t.Errorf("session %s is answered %q, want %s", says.session, lines.Text(), says.want)
		}
	}
}

// A device's certificate would stay for as long as its connection.
func TestConnectionForgetsTheCertificate(t *testing.T) {
	t.Parallel()
	b := brokertest.Start(t, nil)
	state, err := b.StateOf(b.Connect("edge-1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range append(state.VerifiedChains, state.PeerCertificates) {
		if len(chain) == 0 || chain[0].Raw != nil {
			t.Errorf("the connection keeps the certificate of its device: %v", chain)
		}
	}
}
