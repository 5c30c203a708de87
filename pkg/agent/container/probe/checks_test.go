package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/probe"
	"fleet.nationtech.io/fleet/pkg/helper"
)

// local is a Dialer into a container that is this host.
type local struct{ down bool }

func (l local) Dial(ctx context.Context, _ string, _ int, port uint16) (net.Conn, error) {
	if l.down {
		return nil, fmt.Errorf("%w: not there", helper.ErrUnavailable)
	}
	return new(net.Dialer).DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
}

func portOf(t *testing.T, addr net.Addr) uint16 {
	t.Helper()
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		t.Fatalf("%v is no address of TCP", addr)
	}
	return uint16(tcp.Port)
}

// listen serves every connection by a function, as a service that means no good would.
func listen(t *testing.T, serve func(net.Conn)) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return portOf(t, listener.Addr())
}

func check(t *testing.T, d probe.Dialer, r probe.Runtime, p *container.Probe) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return probe.NewChecks(d, r).Check(ctx, &probe.Target{ID: "a", PID: 2}, p)
}

// expect compares an error with a text, "" for none.
func expect(t *testing.T, name string, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if want == "" && got != "" || !strings.Contains(got, want) || strings.ContainsAny(got, "\n\x1b") || len(got) > 300 {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
		case "/moved":
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		case "/asked":
			if r.Host != "shop.example" || r.Header.Get("X-Probe") != "yes" || r.URL.RawQuery != "a=b" || r.Header.Get("User-Agent") != "fleet-probe" {
				w.WriteHeader(http.StatusTeapot)
			}
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "secret details")
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	for _, server := range []*httptest.Server{plain, secure} {
		p := &container.HTTPProbe{Port: portOf(t, server.Listener.Addr()), TLS: server == secure}
		for path, want := range map[string]string{
			"/ok": "", "/moved": "", "/asked?a=b": "", "/broken": fmt.Sprintf("/broken of port %d answered with status 503", p.Port),
		} {
			with := *p
			with.Path, with.Header = path, []string{"host", "shop.example", "x-probe", "yes"}
			expect(t, path, check(t, local{}, nil, &container.Probe{HTTP: &with}), want)
		}
	}
	garbage := listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "\x1b[31mno\r\nprotocol"+strings.Repeat("x", 1<<20)) })
	expect(t, "garbage", check(t, local{}, nil, &container.Probe{HTTP: &container.HTTPProbe{Port: garbage, Path: "/"}}), "malformed")
	endless := listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for err := error(nil); err == nil; {
			_, err = io.WriteString(c, "X: "+strings.Repeat("x", 1<<10)+"\r\n")
		}
	})
	expect(t, "endless header", check(t, local{}, nil, &container.Probe{HTTP: &container.HTTPProbe{Port: endless, Path: "/"}}), "unexpected EOF")
	stream := listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\ndata")
		_, _ = io.Copy(io.Discard, c)
	})
	expect(t, "endless body", check(t, local{}, nil, &container.Probe{HTTP: &container.HTTPProbe{Port: stream, Path: "/"}}), "")
	expect(t, "no TLS", check(t, local{}, nil, &container.Probe{HTTP: &container.HTTPProbe{Port: portOf(t, plain.Listener.Addr()), TLS: true, Path: "/ok"}}), "first record does not look like a TLS handshake")
}

func TestTCP(t *testing.T) {
	t.Parallel()
	open := listen(t, func(net.Conn) {})
	expect(t, "open", check(t, local{}, nil, &container.Probe{TCP: open}), "")
	expect(t, "closed", check(t, local{}, nil, &container.Probe{TCP: 1}), "port 1: ")
	if err := check(t, local{down: true}, nil, &container.Probe{TCP: open}); !errors.Is(err, probe.ErrUnknown) {
		t.Errorf("without the helper: %v", err)
	}
	if err := check(t, local{down: true}, nil, &container.Probe{HTTP: &container.HTTPProbe{Port: open, Path: "/"}}); !errors.Is(err, probe.ErrUnknown) {
		t.Errorf("HTTP without the helper: %v", err)
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, states := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, states)
	states.SetServingStatus("db", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	states.SetServingStatus("web", grpc_health_v1.HealthCheckResponse_SERVING)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	port := portOf(t, listener.Addr())
	for service, want := range map[string]string{
		"": "", "web": "", "db": fmt.Sprintf("health of port %d is 2, which is not SERVING", port),
		"other": fmt.Sprintf("health of port %d answered with status 5 of gRPC", port),
	} {
		expect(t, service, check(t, local{}, nil, &container.Probe{GRPC: &container.GRPCProbe{Port: port, Service: service}}), want)
	}
	expect(t, "no gRPC", check(t, local{}, nil, &container.Probe{GRPC: &container.GRPCProbe{Port: listen(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1<<10))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	})}}), "health of port")
}

// commands is a Runtime whose commands end as they are called.
type commands struct {
	hangs bool
	ran   int
}

func (c *commands) Exec(ctx context.Context, _ string, command []string) (container.Execution, error) {
	c.ran++
	switch command[0] {
	case "hang":
		<-ctx.Done()
		return container.Execution{Session: "s", Running: true}, ctx.Err()
	case "gone":
		return container.Execution{}, container.ErrNotFound
	case "fail":
		return container.Execution{Code: 3, Output: []byte("no\x1b[31m \xff connection\nto the\tdatabase" + strings.Repeat("x", 4096))}, nil
	}
	return container.Execution{}, nil
}

func (c *commands) Executing(_ context.Context, session string) (bool, error) {
	return c.hangs && session == "s", nil
}

func TestExec(t *testing.T) {
	t.Parallel()
	r := &commands{}
	expect(t, "ok", check(t, nil, r, &container.Probe{Exec: []string{"true"}}), "")
	expect(t, "fail", check(t, nil, r, &container.Probe{Exec: []string{"fail"}}), "command fail exited with code 3: no")
	if err := check(t, nil, r, &container.Probe{Exec: []string{"gone"}}); !errors.Is(err, probe.ErrUnknown) {
		t.Errorf("a container that is gone: %v", err)
	}
}

func TestACommandThatHangsRunsOnce(t *testing.T) {
	t.Parallel()
	r := &commands{hangs: true}
	checks := probe.NewChecks(nil, r)
	attempt := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		return checks.Check(ctx, &probe.Target{ID: "a"}, &container.Probe{Exec: []string{"hang"}})
	}
	for range 3 {
		if err := attempt(); err == nil || errors.Is(err, probe.ErrUnknown) {
			t.Errorf("got %v", err)
		}
	}
	if r.ran != 1 {
		t.Errorf("it ran %d times beside itself", r.ran)
	}
	r.hangs = false
	_ = attempt()
	if r.ran != 2 {
		t.Errorf("after it ended it ran %d times", r.ran)
	}
}
