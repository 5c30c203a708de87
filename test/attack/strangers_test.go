package attack_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/deviceclient"
	"fleet.nationtech.io/fleet/pkg/pki"
)

const (
	// mostOfHost is more than any listener gives to the strangers of one host.
	mostOfHost = 1024
	// perConnection is more than the server needs for one that is silent.
	perConnection = 64 << 10
	// sources are the addresses that a crowd comes from.
	sources = 16
)

// crowd is how many connections strangers open to each listener.
func (s scale) crowd() int {
	if s.strict {
		return 10_000
	}
	return 1500
}

// dialFrom connects from an address of this machine.
func dialFrom(source, to string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: waitTimeout}
	return d.Dial("tcp", to)
}

// multitude opens connections on which it says first, and nothing more.
func multitude(t *testing.T, n, sources int, to string, first []byte) []net.Conn {
	t.Helper()
	all := make([]net.Conn, n)
	var wg sync.WaitGroup
	const atOnce = 16
	for worker := range atOnce {
		wg.Go(func() {
			for i := worker; i < n; i += atOnce {
				source := "127.0.0.1" // that of those who are known
				if sources > 1 {
					source = fmt.Sprintf("127.0.1.%d", 1+i%sources)
				}
				conn, err := dialFrom(source, to)
				if err != nil {
					t.Errorf("the machine allows no crowd: %v", err)
					return
				}
				_, _ = conn.Write(first) // refused already: that is looked at later
				all[i] = conn
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() { closeAll(all) })
	return all
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			_ = c.Close()
		}
	}
}

// stillOpen counts the connections that the server has not closed.
func stillOpen(conns []net.Conn) int {
	n := 0
	for _, c := range conns {
		if c == nil {
			continue
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		for {
			_, err := c.Read(make([]byte, 4096))
			if errors.Is(err, os.ErrDeadlineExceeded) {
				n++
			}
			if err != nil {
				break
			}
		}
	}
	return n
}

// hello is a ClientHello, which a crowd can send again and again for nothing.
func hello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}).Handshake() // it never ends well
	}()
	data := make([]byte, 4096)
	n, err := far.Read(data)
	must(t, err)
	_ = far.Close()
	return data[:n]
}

// TestStrangersTakeNoPlaces opens far more connections than there are places,
// silent ones and such that begin a handshake or a request. Whoever is known
// comes in meanwhile, from the same address too, and the process grows by no more
// than the places.
func TestStrangersTakeNoPlaces(t *testing.T) {
	s := newSite(t)
	scale := scaled()
	token := s.token(nil)
	before := s.enroll(t, token, attackerPrefix+"before").connect()
	defer before.conn.Close()
	for _, crowd := range crowds(t, scale) {
		for listener, addr := range map[string]struct {
			at    net.Addr
			where string
		}{"8443": {s.ready.Enroll, "enrollment"}, "4222": {s.ready.NATS, "bus"}, "6443": {s.ready.API, "api"}} {
			t.Run(crowd.name+" to "+listener, func(t *testing.T) {
				counters, heap := s.scrape(t), inUse()
				all := multitude(t, scale.crowd(), crowd.sources, addr.at.String(), crowd.first)
				s.everybodyKnownComesIn(t, token)
				if n := stillOpen(all); n > mostOfHost {
					t.Errorf("%d connections of strangers are open", n)
				}
				if grown := inUse() - heap; grown > mostOfHost*perConnection {
					t.Errorf("the server has %d MB more", grown>>20)
				}
				s.counted(t, counters, []string{refusal(addr.where, "displaced")})
				if !before.conn.IsConnected() {
					t.Error("a device lost its connection")
				}
				closeAll(all)
			})
		}
	}
}

// faceless are strangers that say first and no more, from so many addresses.
type faceless struct {
	name    string
	first   []byte
	sources int
}

func crowds(t *testing.T, s scale) []faceless {
	all := []faceless{{"silence from one address", nil, 1}, {"handshakes from many addresses", hello(t), sources}}
	if s.strict {
		all = append(all, faceless{"silence from many addresses", nil, sources}, faceless{"half a record from one address", []byte{22, 3, 1}, 1}, faceless{"handshakes from one address", hello(t), 1})
	}
	return all
}

// inUse is the memory of heap and stacks.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// enrollAsAgent lets a new device in by the agent's own client. While a crowd is at
// the port that comes from the same address, that client is dropped, too, and asks
// again: nobody knows it yet.
func (s *site) enrollAsAgent(t *testing.T, token, name string) *device {
	t.Helper()
	key, err := pki.NewKey()
	must(t, err)
	server := "https://" + net.JoinHostPort("localhost", port(s.ready.Enroll))
	got, err := enroll.Enroll(t.Context(), enroll.Request{Server: server, Token: token, Device: name, Key: key})
	must(t, err)
	d := &device{site: s, t: t, name: name, key: key, Session: deviceclient.NewSession(name)}
	d.cert, err = decodeChain(got.Certificate, key)
	must(t, err)
	return d
}

// everybodyKnownComesIn enrolls a device, connects it, renews its certificate
// and asks the API as an administrator, each over new connections.
func (s *site) everybodyKnownComesIn(t *testing.T, token string) {
	t.Helper()
	a := &arena{site: s}
	d := s.enrollAsAgent(t, token, fmt.Sprintf("%s%d", attackerPrefix, s.attackers.Add(1))).connect()
	defer d.conn.Close()
	if _, err := d.conn.RTT(); err != nil {
		t.Errorf("a device's connection: %v", err)
	}
	a.renew(t, d)
	config := rest.CopyConfig(s.rest)
	config.Dial = (&net.Dialer{}).DialContext // else clients share connections
	c, err := client.New(config)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	if _, err := c.Devices().Get(ctx, d.name, metav1.GetOptions{}); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	web := s.freshWeb()
	res, err := web.Get("https://" + net.JoinHostPort("localhost", port(s.ready.API)) + "/livez?exclude=etcd")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("the watchdog of the unit: %v, %v", res, err)
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
}

func port(a net.Addr) string {
	_, port, _ := net.SplitHostPort(a.String())
	return port
}
