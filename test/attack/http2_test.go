package attack_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/client"
)

// mostOfStranger is how much of a flood a stranger's connection takes, with what
// is on its way in buffers.
const mostOfStranger = 8 << 20

// framed is a connection to the API that speaks HTTP/2, without a certificate. What it
// is sent is thrown away.
func (s *site) framed(t *testing.T) net.Conn {
	t.Helper()
	conn := s.http2(t)
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	return conn
}

// http2 begins a connection to the API that speaks HTTP/2, without a certificate.
func (s *site) http2(t *testing.T, settings ...http2.Setting) net.Conn {
	t.Helper()
	config := s.tls()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", s.ready.API.String(), config)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(waitTimeout)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	must(t, http2.NewFramer(conn, nil).WriteSettings(settings...))
	return conn
}

// request is the header of a request for a path.
func request(path string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "localhost"}, {Name: ":path", Value: path}} {
		_ = e.WriteField(f) // into memory
	}
	return b.Bytes()
}

// http2Floods are what one connection can send without end. Each returns the
// error that the server's end of the connection causes.
var http2Floods = map[string]func(f *http2.Framer, i int) error{
	"rapid reset": func(f *http2.Framer, i int) error {
		id := uint32(2*i + 1)
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: request("/healthz"), EndHeaders: true, EndStream: true}); err != nil {
			return err
		}
		return f.WriteRSTStream(id, http2.ErrCodeCancel)
	},
	"endless header": func(f *http2.Framer, i int) error {
		if i == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("/healthz")})
		}
		var b bytes.Buffer
		_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "a", Value: "b"}) // into memory
		return f.WriteContinuation(1, false, b.Bytes())
	},
	"settings": func(f *http2.Framer, i int) error {
		return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
	},
	"pings":      func(f *http2.Framer, _ int) error { return f.WritePing(false, [8]byte{}) },
	"empty data": func(f *http2.Framer, i int) error { return emptyData(f, i) },
	"windows":    func(f *http2.Framer, _ int) error { return f.WriteWindowUpdate(0, 1) },
	"priorities": func(f *http2.Framer, i int) error {
		return f.WritePriority(uint32(2*i+1), http2.PriorityParam{Weight: 1})
	},
	"health only": func(f *http2.Framer, i int) error { return health(f, i) },
}

func emptyData(f *http2.Framer, i int) error {
	if i == 0 {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request("/healthz"), EndHeaders: true})
	}
	return f.WriteData(1, false, nil)
}

func health(f *http2.Framer, i int) error {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: request("/livez"), EndHeaders: true, EndStream: true})
}

// TestHTTP2Floods: a stranger's connection to the API ends before a flood over it
// costs anything, and enrollment speaks no HTTP/2.
func TestHTTP2Floods(t *testing.T) {
	s := newSite(t)
	for name, flood := range http2Floods {
		t.Run(name, func(t *testing.T) {
			counted := &countingConn{Conn: s.framed(t)}
			f := http2.NewFramer(counted, nil)
			var err error
			for i := 0; err == nil && counted.written < 2*mostOfStranger; i++ {
				err = flood(f, i)
			}
			if err == nil {
				t.Errorf("the connection took %d bytes", counted.written)
			}
		})
	}
	t.Run("enrollment", func(t *testing.T) {
		config := s.tls()
		config.NextProtos = []string{"h2", "http/1.1"}
		conn, err := tls.Dial("tcp", s.ready.Enroll.String(), config)
		must(t, err)
		defer func() { _ = conn.Close() }()
		if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
			t.Errorf("the listener speaks %q", p)
		}
	})
	// Control: an administrator's connection takes far more than a stranger's.
	t.Run("an administrator", func(t *testing.T) {
		config := rest.CopyConfig(s.rest)
		c, err := client.New(config)
		must(t, err)
		before := s.scrape(t)[refusal("api", "bytes")]
		for range 1200 {
			_, err := c.Devices().List(t.Context(), metav1.ListOptions{LabelSelector: "a=b,c=d,e=f", Limit: 1})
			must(t, err)
		}
		if after := s.scrape(t)[refusal("api", "bytes")]; after != before {
			t.Errorf("%g connections were ended", after-before)
		}
	})
	// A check of health as load balancers make it, over one connection.
	web := s.freshWeb()
	web.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	web.Transport.(*http.Transport).DisableKeepAlives = false
	for range 100 {
		res, err := web.Get("https://" + net.JoinHostPort("localhost", port(s.ready.API)) + "/healthz")
		must(t, err)
		_, _ = io.Copy(io.Discard, res.Body)
		must(t, res.Body.Close())
		if res.StatusCode != http.StatusOK {
			t.Fatalf("a check of health: %s", res.Status)
		}
	}
}

// countingConn counts what is written.
type countingConn struct {
	net.Conn
	written int
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written += n
	return n, err
}

// A stranger that gives the server no room for its answers must not keep the question
// of the watchdog, or of a load balancer, from being answered.
func TestUnreadAnswersKeepNobodyOut(t *testing.T) {
	s := newSite(t)
	for range 8 { // more than are worked on at once
		s.leaveUnread(t, "/livez?verbose&exclude="+strings.Repeat("x", 5000))
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: s.tls()}}
	answer, err := client.Get("https://" + s.ready.API.String() + "/livez?exclude=etcd")
	must(t, err)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("another stranger is answered with %s", answer.Status)
	}
	must(t, s.ready.Live(t.Context()))
}

// leaveUnread asks over a connection of its own and leaves the answer, which has begun,
// unread until the test ends.
func (s *site) leaveUnread(t *testing.T, path string) {
	t.Helper()
	conn := s.http2(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	f := http2.NewFramer(conn, conn)
	must(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request(path), EndHeaders: true, EndStream: true}))
	for {
		frame, err := f.ReadFrame()
		must(t, err)
		if frame.Header().Type == http2.FrameHeaders {
			return
		}
	}
}
