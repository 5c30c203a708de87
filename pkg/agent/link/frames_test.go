package link_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

// gateway accepts one connection as a NATS server does, and says something again
// and again until the link has had enough. The link's log goes to log.
func gateway(t *testing.T, greets bool, says string, log *slog.Logger) {
	t.Helper()
	p := newPKI(t)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{p.cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			err = speak(conn, greets, says)
		}
		said <- errors.Join(err, listener.Close())
	}()
	l, err := link.Open(link.Config{Device: device, Servers: []string{"tls://" + listener.Addr().String()}, Credentials: p.fixed(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	if err := <-said; err != nil {
		t.Error(err)
	}
}

// speak returns nil once the other side has closed the connection.
func speak(conn net.Conn, greets bool, says string) error {
	const most = 64 << 20
	defer conn.Close()
	go func() { _, _ = io.Copy(io.Discard, conn) }() // until it is closed
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if greets {
		if _, err := io.WriteString(conn, `INFO {"server_id":"x","version":"2.12.0","headers":true,"tls_required":true}`+"\r\nPONG\r\n"); err != nil {
			return err
		}
	}
	for range most / len(says) {
		_, err := io.WriteString(conn, says)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err != nil {
			return nil
		}
	}
	return errors.New("all of it was taken")
}

// TestAGatewayThatSaysTooMuch: the client takes as much memory as a gateway says
// that it needs, and ends the process where there is not as much.
func TestAGatewayThatSaysTooMuch(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		greets bool
		says   string
	}{
		"a greeting without end":  {false, strings.Repeat("I", 1024)},
		"a refusal without end":   {true, strings.Repeat("-ERR ", 200)},
		"a message of 8 EiB":      {true, "MSG a 1 9223372036854775807\r\n"},
		"a message of 8 GiB":      {true, "MSG a 1 8589934592\r\n" + strings.Repeat("x", 1024)},
		"one with headers":        {true, "HMSG a 1 r 10 1073741824\r\n" + strings.Repeat("x", 1024)},
		"a subject without end":   {true, "MSG a" + strings.Repeat("a", 1024)},
		"a message after a blank": {true, "-ERR \nMSG a 1 1073741824\r\n"},
		"a line that ends twice":  {true, "MSG a 1 1\r1\r\nxMSG a 1 1073741824\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log logging
			gateway(t, tc.greets, tc.says, slog.New(slog.NewTextHandler(&log, nil)))
			wait.For(t, "the link says why", 10*time.Second, 10*time.Millisecond, func() error {
				if text := log.String(); !strings.Contains(text, link.ErrProtocol.Error()) {
					return errors.New(text)
				}
				return nil
			})
		})
	}
}

// logging is a log that may be read while it is written.
type logging struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logging) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logging) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestFrames(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("x", wire.MaxReply)
	for says, ok := range map[string]bool{
		"INFO {}\r\nPING\r\npong\r\n+OK\r\n-ERR 'x'\r\n": true,
		"MSG a 1 0\r\n\r\nMSG a 1 r 3\r\nabc\r\nPING\r\nHMSG a 1 2 3\r\nabc\r\nhmsg a 1 r 2 3\r\nabc\r\nmsg\ta  1\t3\nabc\nPING\r\n": true,
		fmt.Sprintf("MSG a 1 %d\r\n%s\r\nPING\r\n", len(whole), whole):                                                               true,
		"MSG a 1 3\r\nabcMSG a 1 999999999\r\nPING\r\n":                                                                              true, // as the client reads it
		"MSG a 1 999999\r\n": false, "MSG a 1 0000000000000003\r\n": false, "MSG a 1 +3\r\n": false, "MSG a 1 -3\r\n": false, "MSG a 1 x\r\n": false,
		"MSG a 3\r\n": false, "MSG a 1 r r 3\r\n": false, "HMSG a 1 3\r\n": false, "MSG \na 1 3\r\n": false, "INFO \r\n": false, "INFO\r\n": false,
		"\r\n": false, "GET / HTTP/1.1\r\n": false, "PING x\rPING\r\n": false,
	} {
		if err := link.Follow(says); (err == nil) != ok {
			t.Errorf("%.60q: %v", says, err)
		}
	}
}

// FuzzFrames: how the bytes come makes no difference.
func FuzzFrames(f *testing.F) {
	f.Add("INFO {}\r\nMSG a 1 3\r\nabc\r\nPING\r\n", 3)
	f.Add("HMSG a 1 r 2 3\r\nabc\r\n-ERR 'x'\r\n", 7)
	f.Fuzz(func(t *testing.T, says string, at int) {
		at = min(max(at, 0), len(says))
		if one, two := link.Follow(says), link.Follow(says[:at], says[at:]); (one == nil) != (two == nil) {
			t.Errorf("at once %v, in two %v", one, two)
		}
	})
}
