package broker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"
)

const (
	// canaryTimeout bounds the check of all texts. It takes milliseconds.
	canaryTimeout = 20 * time.Second
	canaryPayload = 64
	canaryPending = 4 << 10
	// canaryControlLine is far below what a text of canaries has.
	canaryControlLine = 256
)

// canaries provoke what a device is barred for: what a client says to a server
// that knows it, by the text that the server then logs. Texts about clients that
// have not proved who they are bar nobody, and are not checked.
var canaries = map[string]string{
	"Publish Violation":              "PUB other 0\r\n\r\n",
	"Publish Violation - Reply":      "PUB heard _R_.x 0\r\n\r\n",
	"Subscription Violation":         "SUB other 1\r\n",
	"maximum payload exceeded":       fmt.Sprintf("PUB heard %d\r\n", canaryPayload+1),
	"maximum subscriptions exceeded": "SUB heard 1\r\nSUB heard 2\r\n",
	"maximum control line exceeded":  "PUB " + strings.Repeat("x", 16*canaryControlLine) + "\r\n",
	"Client parser ERROR":            "XYZ\r\n",
	"processPub":                     "PUB heard x y z\r\n",
	"processHeaderPub":               "HPUB heard\r\n",
	"processSub":                     "SUB heard\r\n",
	// A client that hears everything it says, and reads nothing.
	"Slow Consumer Detected": "SUB heard 1\r\n" + strings.Repeat(fmt.Sprintf("PUB heard %d\r\n%s\r\n", canaryPayload, strings.Repeat("x", canaryPayload)), 2*canaryPending/canaryPayload),
}

// checkTexts fails when this version of NATS does not log one of the texts that
// bar a device: nothing else tells what NATS refuses. It asks a NATS server of its
// own, which listens nowhere.
var checkTexts = sync.OnceValue(func() error { return checkCanaries(canaries, canaryTimeout) })

func checkCanaries(canaries map[string]string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	secret := newSecret()
	s, err := server.NewServer(&server.Options{
		ServerName: "canary", DontListen: true, NoSigs: true, NoSystemAccount: true,
		MaxPayload: canaryPayload, MaxPending: canaryPending, MaxControlLine: canaryControlLine, MaxSubs: 1,
		Users: []*server.User{{Username: "canary", Password: secret, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"heard"}}, Subscribe: &server.SubjectPermission{Allow: []string{"heard"}},
		}}},
	})
	if err != nil {
		return fmt.Errorf("configuring NATS to check its log: %w", err)
	}
	heard := map[string]chan struct{}{}
	for text := range canaries {
		heard[text] = make(chan struct{})
	}
	log := &texts{awaited: maps.Clone(heard)}
	s.SetLoggerV2(log, true, false, false)
	s.Start()
	defer s.WaitForShutdown()
	defer s.Shutdown()
	var g errgroup.Group
	for text, provocation := range canaries {
		g.Go(func() error {
			if err := provoke(ctx, s, secret, provocation, heard[text]); err != nil {
				return fmt.Errorf("this version of NATS does not log %q, by which devices that misbehave are found: use a fleet-server that was released: %w", text, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// provoke says something to a server and waits until it is heard of.
func provoke(ctx context.Context, s *server.Server, secret, provocation string, heard <-chan struct{}) error {
	conn, err := s.InProcessConn()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if err := introduce(conn, secret); err != nil {
		return err
	}
	// The server may end the connection before it has read all of it.
	written := make(chan struct{})
	go func() { defer close(written); _, _ = conn.Write([]byte(provocation)) }()
	defer func() { _ = conn.Close(); <-written }()
	select {
	case <-heard:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// introduce logs in.
func introduce(conn net.Conn, secret string) error {
	in := bufio.NewReader(conn)
	if _, err := in.ReadString('\n'); err != nil { // INFO
		return err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT {\"user\":\"canary\",\"pass\":%q,\"headers\":true,\"echo\":true,\"verbose\":false}\r\nPING\r\n", secret); err != nil {
		return err
	}
	answer, err := in.ReadString('\n')
	if err == nil && !strings.HasPrefix(answer, "PONG") {
		err = errors.New("the login failed: " + strings.TrimSpace(answer))
	}
	return err
}

// texts is a server.Logger that waits for texts.
type texts struct {
	mu      sync.Mutex // guards awaited
	awaited map[string]chan struct{}
}

func (t *texts) Noticef(format string, v ...any) { t.hear(format, v) }
func (t *texts) Warnf(format string, v ...any)   { t.hear(format, v) }
func (t *texts) Fatalf(format string, v ...any)  { t.hear(format, v) }
func (t *texts) Errorf(format string, v ...any)  { t.hear(format, v) }
func (t *texts) Debugf(format string, v ...any)  { t.hear(format, v) }
func (t *texts) Tracef(string, ...any)           {}

// hear reads a message as natsLog does.
func (t *texts) hear(format string, v []any) {
	_, id, text := read(format, v)
	if id == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for known, heard := range t.awaited {
		if strings.HasPrefix(text, known) {
			close(heard)
			delete(t.awaited, known)
		}
	}
}
