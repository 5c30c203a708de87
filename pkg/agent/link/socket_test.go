package link_test

import (
	"log/slog"
	"net"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/link"
)

// The server answers no heartbeat, so that nothing but the system notices that the other end
// is gone: it does not acknowledge. Nothing else is sent for that.
func TestTheSystemEndsADeadConnection(t *testing.T) {
	t.Parallel()
	b := newBus(t, newPKI(t), server.RANDOM_PORT)
	dialed := make(chan net.Conn, 1)
	l, err := link.Open(link.Config{
		Device: device, Servers: []string{b.url()}, Credentials: b.fixed(), Log: slog.New(slog.DiscardHandler),
		Dial: dialFunc(func(network, address string) (net.Conn, error) {
			conn, err := link.Dialer().Dial(network, address)
			dialed <- conn
			return conn, err
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	receive(t, l.Connected(), "connected")
	conn, ok := (<-dialed).(*net.TCPConn)
	if !ok {
		t.Fatal("no connection of TCP")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var timeout, keepAlive int
	if err := raw.Control(func(fd uintptr) {
		timeout, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		keepAlive, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
	}); err != nil {
		t.Fatal(err)
	}
	if timeout != 60_000 || keepAlive != 0 {
		t.Errorf("the system waits for %d ms, keepalive is %d", timeout, keepAlive)
	}
}

type dialFunc func(network, address string) (net.Conn, error)

func (f dialFunc) Dial(network, address string) (net.Conn, error) { return f(network, address) }
