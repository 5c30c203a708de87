package broker

import (
	"errors"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/refusals"
)

// maxRefusals is how much a connection may be refused in refusalWindow before
// it is dropped. Each refusal is answered and logged, so a flood of them costs
// more than a flood of messages.
const (
	maxRefusals   = 200
	refusalWindow = 10 * time.Second
)

// reasons tells what NATS refused by the beginning of what it logs: it has no
// other way to say so.
var reasons = []struct{ text, reason string }{
	{"Publish Violation - Reply", "reply"},
	{"Publish Violation", "publish"},
	{"Subscription Violation", "subscribe"},
	{"authentication error", "authentication"},
	{"Authentication Timeout", "timeout"},
	{"TLS handshake error", "tls"},
	{"TLS handshake timeout", "tls"},
	{"maximum payload exceeded", "payload"},
	{"maximum subscriptions exceeded", "subscriptions"},
	{"maximum connections exceeded", "connections"},
	{"maximum control line exceeded", "protocol"},
	{"Client parser ERROR", "protocol"},
	{"processPub", "protocol"},
	{"processHeaderPub", "protocol"},
	{"processSub", "protocol"},
	{"Slow Consumer Detected", "slowConsumer"},
	{"Slow Consumer State", "slowConsumer"},
}

// refuses reports whether a message of NATS may be about a refusal: it costs less than
// to find out which.
func refuses(format string) bool {
	for _, known := range reasons {
		if strings.Contains(format, known.text) {
			return true
		}
	}
	return false
}

// clientPrefix is what NATS puts before a message about a connection: address
// and connection id, then version, language and name as the client gave them,
// then account and user.
var clientPrefix = regexp.MustCompile(`^\S+ - cid:(\d+)(?: - "(?:[^"\\]|\\.)*"){0,2} - `)

// refused counts what NATS refuses and drops connections that don't stop.
type refused struct {
	counter    *prometheus.CounterVec
	disconnect func(id uint64)
	guard      *guard.Guard
	log        *slog.Logger

	mu    sync.Mutex // guards what follows
	until time.Time
	// byID counts the refusals of connections until the end of the window.
	byID map[uint64]int
}

func newRefused(disconnect func(id uint64), g *guard.Guard, log *slog.Logger) *refused {
	return &refused{counter: refusals.New(refusals.Bus), disconnect: disconnect, guard: g, log: log, byID: map[uint64]int{}}
}

// count counts a connection that got no place, or lost it.
func (r *refused) count(reason string) { r.counter.WithLabelValues(reason).Inc() }

// note looks at a message of NATS about the connection id, 0 for none.
func (r *refused) note(id uint64, text string) {
	for _, known := range reasons {
		if strings.HasPrefix(text, known.text) {
			r.counter.WithLabelValues(known.reason).Inc()
			r.strike(id)
			return
		}
	}
}

// strike drops the connection that is refused too often. It does so in a
// goroutine: NATS may hold the connection's lock while it logs.
func (r *refused) strike(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.After(r.until) {
		r.until = now.Add(refusalWindow)
		clear(r.byID)
	}
	r.byID[id]++
	if r.byID[id] == maxRefusals && id != 0 {
		r.counter.WithLabelValues("dropped").Inc()
		go r.guard.Do(func() { r.disconnect(id) }, "connection", id)
	}
}

// clientError takes what goes wrong on the server's own connections. Without a
// handler the client prints it, and a device can cause it.
func (r *refused) clientError(_ *nats.Conn, sub *nats.Subscription, err error) {
	switch {
	case errors.Is(err, nats.ErrBadHeaderMsg):
		r.counter.WithLabelValues("headers").Inc()
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		r.counter.WithLabelValues("overload").Inc()
		r.log.Error("messages were lost: they come faster than they are handled", "subject", sub.Subject)
	default:
		r.log.Warn("NATS reports an error", "error", err)
	}
}

// clientEnded takes the end of one of the server's own connections.
func (r *refused) clientEnded(c *nats.Conn, err error) {
	if err != nil { // not at the server's own end
		r.log.Error("a connection of the server itself ended, and is made again", "error", err, "times", c.Stats().Reconnects+1)
	}
}

// cutClient splits a format of NATS into what it says of the connection, which
// the client has a hand in and which must not be taken for a format, and the
// rest.
func cutClient(format string) (client string, id uint64, rest string) {
	m := clientPrefix.FindStringSubmatchIndex(format)
	if m == nil {
		return "", 0, format
	}
	id, err := strconv.ParseUint(format[m[2]:m[3]], 10, 64)
	if err != nil {
		id = 0 // not one that exists
	}
	return format[:m[1]], id, format[m[1]:]
}
