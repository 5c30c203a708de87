package probe_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/probe"
)

// counted is a Dialer that counts the connections that are open.
type counted struct {
	local

	open atomic.Int32
}

func (c *counted) Dial(ctx context.Context, id string, pid int, port uint16) (net.Conn, error) {
	conn, err := c.local.Dial(ctx, id, pid, port)
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	return &countedConn{Conn: conn, open: &c.open}, nil
}

type countedConn struct {
	net.Conn

	open   *atomic.Int32
	closed atomic.Bool
}

func (c *countedConn) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		c.open.Add(-1)
	}
	return c.Conn.Close()
}

// until reads from a connection until the other side ends it.
func until(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// A probe is made every few seconds for years: one that leaves its connection behind takes
// the agent's descriptors and memory.
func TestNoProbeLeavesItsConnection(t *testing.T) {
	t.Parallel()
	services := map[string]func(net.Conn){
		"silent": until,
		"header without end": func(conn net.Conn) {
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nX: "))
			until(conn)
		},
		"HTTP/2, no answer": func(conn net.Conn) {
			_ = http2.NewFramer(conn, conn).WriteSettings()
			until(conn)
		},
		"HTTP/2, pings and no reading": func(conn net.Conn) {
			framer := http2.NewFramer(conn, conn)
			_ = framer.WriteSettings()
			for framer.WritePing(false, [8]byte{}) == nil {
			}
		},
		"an answer at once": func(conn net.Conn) {
			_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20)))
			until(conn)
		},
	}
	for name, serve := range services {
		port := listenAll(t, serve)
		for kind, p := range map[string]container.Probe{
			"grpc": {GRPC: &container.GRPCProbe{Port: port}}, "tcp": {TCP: port},
			"http": {HTTP: &container.HTTPProbe{Port: port, Path: "/"}}, "https": {HTTP: &container.HTTPProbe{Port: port, Path: "/", TLS: true}},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				dialer := &counted{}
				checks := probe.NewChecks(dialer, nil)
				for range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
					_ = checks.Check(ctx, &probe.Target{ID: "a", PID: 2}, &p)
					cancel()
				}
				if open := dialer.open.Load(); open != 0 {
					t.Errorf("%d connections of 3 probes are left open", open)
				}
			})
		}
	}
}

// listenAll serves connections beside each other, and ends them with the test.
func listenAll(t *testing.T, serve func(net.Conn)) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { end(); listener.Close(); all.Wait() })
	return portOf(t, listener.Addr())
}
