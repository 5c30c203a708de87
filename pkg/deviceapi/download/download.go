// Package download bounds what downloads take from the enrollment listener, so
// that enrollment and renewal, which share it, go on beside any number of them.
package download

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/handshake"
)

const (
	// patience is how long a download waits for its turn.
	patience = 20 * time.Second
	// maxWaiting bounds those that wait.
	maxWaiting = 1000
	// stall is how long a client may take for one piece of 32 KiB.
	stall = 30 * time.Second
	// settled is how old a download is before it may have to make room, and crawl how
	// slow it is, in bytes a second, if it is the only one of its host.
	settled = 30 * time.Second
	crawl   = 16 << 10
	// retryAfter is when a client that was turned away should try again, in seconds.
	retryAfter = "15"
)

// errDisplaced: the download made room for another host's.
var errDisplaced = errors.New("the download was too slow while others waited")

// errBusy: too many downloads wait already, or this one waited for too long.
var errBusy = errors.New("too many downloads at this moment")

// Gate lets downloads through, so many at a time together and for each host.
type Gate struct {
	all, each int
	requests  *prometheus.CounterVec

	mu      sync.Mutex // guards what follows
	active  int
	hosts   map[string]int
	waiting []*waiter
	running map[*patientWriter]bool
}

// waiter waits for its place. turn is closed when it has one.
type waiter struct {
	host string
	turn chan struct{}
}

// NewGate returns a gate with places for all downloads together and for each
// host. Requests are counted under the name.
func NewGate(name string, all, each int) *Gate {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fleet_downloads_total", ConstLabels: prometheus.Labels{"of": name},
		Help: "Downloads from the enrollment listener by what they are of (packages, images) and result (ok, busy).",
	}, []string{"result"})
	for _, result := range []string{"ok", "busy"} { // there, with 0, before anything happens
		requests.WithLabelValues(result)
	}
	return &Gate{all: all, each: each, hosts: map[string]int{}, running: map[*patientWriter]bool{}, requests: requests}
}

// Collectors are the metrics.
func (g *Gate) Collectors() []prometheus.Collector { return []prometheus.Collector{g.requests} }

// Handler lets requests for next through. They may take as long as the client
// goes on reading, whatever the limits of the server are.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := handshake.Host(r.RemoteAddr)
		if err := g.enter(r, host); err != nil {
			g.requests.WithLabelValues("busy").Inc()
			w.Header().Set("Retry-After", retryAfter)
			http.Error(w, err.Error()+": try again later", http.StatusServiceUnavailable)
			return
		}
		p := &patientWriter{ResponseWriter: w, control: http.NewResponseController(w), host: host, begin: time.Now()}
		g.add(p)
		defer g.leave(p)
		g.requests.WithLabelValues("ok").Inc()
		next.ServeHTTP(p, r)
	})
}

func (g *Gate) enter(r *http.Request, host string) error {
	me, err := g.queue(host)
	if me == nil {
		return err
	}
	// Who waits for a download keeps no connection from whoever wants to enroll.
	if c, ok := connlimit.OfRequest(r); ok {
		c.Idle()
		defer c.Busy()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-me.turn:
		return nil
	case <-timer.C:
	case <-r.Context().Done():
	}
	return g.giveUp(me)
}

// queue takes a place, or has somebody wait for one: nil for who needs not, or may not.
func (g *Gate) queue(host string) (*waiter, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free(host) {
		g.take(host)
		return nil, nil //nolint:nilnil // nobody waits
	}
	if len(g.waiting) >= maxWaiting {
		return nil, errBusy
	}
	g.displace(host, time.Now())
	me := &waiter{host, make(chan struct{})}
	g.waiting = append(g.waiting, me)
	return me, nil
}

// giveUp ends the wait, unless its turn came just now.
func (g *Gate) giveUp(me *waiter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-me.turn:
		return nil
	default:
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(w *waiter) bool { return w == me })
	return errBusy
}

// leave gives a place back, to the first that waits and may have it.
func (g *Gate) leave(p *patientWriter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.running, p)
	host := p.host
	g.active--
	if g.hosts[host]--; g.hosts[host] == 0 {
		delete(g.hosts, host)
	}
	for i, w := range g.waiting {
		if g.free(w.host) {
			g.take(w.host)
			g.waiting = slices.Delete(g.waiting, i, i+1)
			close(w.turn)
			return
		}
	}
}

func (g *Gate) free(host string) bool { return g.active < g.all && g.hosts[host] < g.each }

func (g *Gate) take(host string) {
	g.active++
	g.hosts[host]++
}

func (g *Gate) add(p *patientWriter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running[p] = true
}

// displace ends the slowest download when all places are taken and a host
// waits that has none: one that crawls, or one of a host that has several. The
// caller holds mu.
func (g *Gate) displace(host string, now time.Time) {
	if g.active < g.all || g.hosts[host] > 0 {
		return
	}
	var slowest *patientWriter
	for p := range g.running {
		if now.Sub(p.begin) < settled || (g.hosts[p.host] < 2 && p.rate(now) > crawl) {
			continue
		}
		if slowest == nil || p.rate(now) < slowest.rate(now) {
			slowest = p
		}
	}
	if slowest != nil {
		slowest.end()
	}
}

// patientWriter moves the limits of the server on with each piece.
type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	host    string
	begin   time.Time

	written atomic.Int64
	ended   atomic.Bool
}

// rate is how many bytes a second were written.
func (w *patientWriter) rate(now time.Time) float64 {
	return float64(w.written.Load()) / max(1, now.Sub(w.begin).Seconds())
}

// end lets the next piece fail, and the present one.
func (w *patientWriter) end() {
	w.ended.Store(true)
	_ = w.control.SetWriteDeadline(time.Unix(1, 0)) // it fails at the next piece, else
}

// Write implements io.Writer.
func (w *patientWriter) Write(p []byte) (int, error) {
	if w.ended.Load() {
		return 0, errDisplaced
	}
	deadline := time.Now().Add(stall)
	// The end of the time to read would end the request, too.
	if err := errors.Join(w.control.SetReadDeadline(deadline), w.control.SetWriteDeadline(deadline)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := w.ResponseWriter.Write(p)
	w.written.Add(int64(n))
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
