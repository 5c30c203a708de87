package attack_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/net/http2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// slowEach is how many strangers there are of each kind, for each listener: all
	// together more than 8443 and 6443 have places for the strangers of a host.
	slowEach = 25
	// drip is the pause between two bytes of those who are slow, slowFor how long all
	// of them go on.
	drip, slowFor = time.Second, 12 * time.Second
	// mostOfSlow is what they may take of the server's memory, which is the test's, too.
	mostOfSlow = 192 << 20
	// mostWait is how long somebody known tries, on a machine that is the crowd as well.
	mostWait = 8 * time.Second
)

// slowness is a way to let the server wait.
type slowness struct {
	name string
	// protocol is what the handshake agrees upon, or empty for none.
	protocol string
	// first is said at once, after the handshake if there is one, and rest byte by byte.
	first, rest []byte
}

func slownesses(t *testing.T) []slowness {
	long := make([]byte, 1000)
	for i := range long {
		long[i] = 'a'
	}
	post := "POST " + wire.PathEnroll + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
	frame := func(write func(f *http2.Framer)) []byte {
		var b collector
		_, _ = io.WriteString(&b, http2.ClientPreface) // into memory
		f := http2.NewFramer(&b, nil)
		_ = f.WriteSettings() // into memory
		write(f)
		return b
	}
	return []slowness{
		{"nothing", "", nil, nil},
		{"a handshake byte by byte", "", nil, hello(t)},
		{"half a handshake", "", hello(t)[:100], nil},
		{"a handshake and no more", "http/1.1", nil, nil},
		{"half a header", "http/1.1", []byte("GET /livez HTTP/1.1\r\nHost: localhost\r\n"), nil},
		{"a header byte by byte", "http/1.1", []byte("GET /livez HTTP/1.1\r\nX: "), long},
		{"a header and no body", "http/1.1", []byte(post), nil},
		{"a body byte by byte", "http/1.1", []byte(post), long},
		{"half a preface", "h2", []byte(http2.ClientPreface)[:10], nil},
		{"a preface", "h2", frame(func(*http2.Framer) {}), nil},
		{"a request without its end", "h2", frame(func(f *http2.Framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("/livez"), EndHeaders: true}) // into memory
		}), nil},
		{"a header without its end", "h2", frame(func(f *http2.Framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("/livez")}) // into memory
		}), nil},
	}
}

// collector keeps what is written to it.
type collector []byte

// Write implements io.Writer.
func (c *collector) Write(p []byte) (int, error) {
	*c = append(*c, p...)
	return len(p), nil
}

// linger lets the server wait over one connection after the other, until ctx ends.
func (s slowness) linger(ctx context.Context, config *tls.Config, to string) {
	for ctx.Err() == nil {
		s.once(ctx, config, to)
		select {
		case <-ctx.Done():
		case <-time.After(drip):
		}
	}
}

// once does so over one connection, until the server ends it.
func (s slowness) once(ctx context.Context, config *tls.Config, to string) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if s.protocol != "" {
		config = config.Clone()
		config.NextProtos = []string{s.protocol}
		secure := tls.Client(conn, config)
		if secure.HandshakeContext(ctx) != nil {
			return
		}
		conn = secure
	}
	if _, err := conn.Write(s.first); err != nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, conn)
	}()
	tick := time.NewTicker(drip)
	defer tick.Stop()
	for i := 0; ; {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		if i < len(s.rest) {
			if _, err := conn.Write(s.rest[i : i+1]); err != nil {
				return
			}
			i++
		}
	}
}

// TestSlowStrangers lets strangers keep the server waiting in every way, all from the
// address of those who are known, and come again soon after they are turned away.
// Devices and administrators come in meanwhile, if they try again.
func TestSlowStrangers(t *testing.T) {
	s := newSite(t)
	a := &arena{site: s}
	d := s.enroll(t, s.token(nil), attackerPrefix+"known")
	before := s.enroll(t, s.token(nil), attackerPrefix+"before").connect()
	defer before.conn.Close()
	heap := inUse()
	ctx, cancel := context.WithTimeout(t.Context(), slowFor)
	defer cancel()
	var crowd sync.WaitGroup
	for _, slow := range slownesses(t) {
		for _, at := range []net.Addr{s.ready.Enroll, s.ready.API, s.ready.NATS} {
			for range slowEach {
				crowd.Go(func() { slow.linger(ctx, s.tls(), at.String()) })
			}
		}
	}
	rounds, most := 0, int64(0)
	for ; ctx.Err() == nil; rounds++ {
		for name, comesIn := range map[string]func() error{
			"a device to the bus":        func() error { return s.reachesTheBus(d) },
			"a device to the enrollment": func() error { return a.asksForTime(t, d) },
			"an administrator":           func() error { return s.reachesTheAPI(t) },
		} {
			begin := time.Now()
			eventually(t, name, comesIn)
			if took := time.Since(begin); took > mostWait {
				t.Errorf("%s comes in after %s", name, took)
			}
		}
		most = max(most, inUse()-heap)
	}
	crowd.Wait()
	if most > mostOfSlow {
		t.Errorf("the server has %d MB more", most>>20)
	}
	if !before.conn.IsConnected() {
		t.Error("a device lost its connection")
	}
	t.Logf("%d rounds, %d MB", rounds, most>>20)
}

// reachesTheBus makes a new connection of a device.
func (s *site) reachesTheBus(d *device) error {
	conn, err := s.dial(s.tls(d.cert), nats.Name(randomHex(16)))
	if err == nil {
		_, err = conn.RTT()
		conn.Close()
	}
	return err
}

// asksForTime asks the enrollment listener for what a device with its certificate may
// ask as often as it likes.
func (a *arena) asksForTime(t *testing.T, d *device) error {
	web := a.freshWeb()
	web.Transport.(*http.Transport).TLSClientConfig = a.tls(d.cert)
	if status := a.status(t.Context(), web, question{method: http.MethodGet, path: wire.PathTime + "?" + wire.QueryNonce + "=" + strings.Repeat("07", 32)}); status != http.StatusOK {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// reachesTheAPI makes a new connection of an administrator.
func (s *site) reachesTheAPI(t *testing.T) error {
	config := rest.CopyConfig(s.rest)
	config.Dial = (&net.Dialer{}).DialContext // else clients share connections
	c, err := client.New(config)
	must(t, err)
	_, err = c.Devices().List(t.Context(), metav1.ListOptions{Limit: 1})
	return err
}
