package attack_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/pki/pkitest"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// clients are enough for those that wait for an answer not to hold up the rest.
	clients = 16
	// A crowd that was held up asks the more afterwards, but not everything at once.
	catchUp, atOnce = 1.5, 4
	// freshEvery is how many questions of a crowd share one that has a connection
	// of its own, and with it a handshake. That costs the machine, which is the client
	// as well, as much as ten questions.
	freshEvery = 20
	// renewalInterval is the time between two renewals of different devices, of
	// which each may renew so often at once.
	renewalInterval, renewalsAtOnce = 500 * time.Millisecond, 5
)

// question is what strangers ask of the enrollment listener.
type question struct {
	name, method, path string
	body               []byte
	// often is how many of a crowd's questions are this one, by comparison.
	often int
	// answers are the statuses that it may have.
	answers []int
}

// questions are all kinds that cost nothing but a connection.
func (a *arena) questions(t *testing.T) []question {
	t.Helper()
	good, err := wire.ParseToken(a.token)
	must(t, err)
	wrong, unknown := good, good
	wrong.Secret[0]++
	unknown.ID = "nosuch"
	with := func(token string) []byte {
		req, _ := a.enrollRequest(t, token)
		return encode(t, req)
	}
	renewal := encode(t, wire.RenewRequest{CSR: a.newRequest(t)})
	nonce := "?" + wire.QueryNonce + "=" + strings.Repeat("07", 32)
	bad, public := []int{http.StatusBadRequest}, []int{http.StatusOK, http.StatusTooManyRequests}
	return []question{
		{"a wrong secret", http.MethodPost, wire.PathEnroll, with(wrong.Encode()), 2, []int{http.StatusForbidden}},
		{"an unknown token", http.MethodPost, wire.PathEnroll, with(unknown.Encode()), 5, []int{http.StatusForbidden}},
		{"no token", http.MethodPost, wire.PathEnroll, with(""), 1, bad},
		{"garbage", http.MethodPost, wire.PathEnroll, []byte("\x00\xff{"), 1, bad},
		{"a renewal by nobody", http.MethodPost, wire.PathRenew, renewal, 1, bad},
		{"the root", http.MethodGet, wire.PathCA, nil, 8, public}, // more than one host may ask,
		{"the time", http.MethodGet, wire.PathTime + nonce, nil, 2, public},
	}
}

func (a *arena) newRequest(t *testing.T) string {
	t.Helper()
	key, err := pki.NewKey()
	must(t, err)
	return pkitest.CSROf(t, key)
}

// crowd are strangers who ask so many questions a second. Those that the answers
// hold up are made up for.
type crowd struct {
	arena     *arena
	questions []question
	begin     time.Time
	interval  time.Duration
	limit     *rate.Limiter

	next  atomic.Int64
	fresh atomic.Int64
	mu    sync.Mutex // guards what follows
	// answers are counted by question and status, 0 for none.
	answers map[string]map[int]int
}

// gather lets a crowd ask until the returned function is called, which says how
// many answers a second it got, and how many of each status.
func (a *arena) gather(t *testing.T) (disperse func() (perSecond float64, answers map[int]int)) {
	t.Helper()
	const ahead = 1.05 // the last answers are on their way at the end
	perSecond := float64(a.scale.enrolled) * ahead
	c := &crowd{
		arena: a, begin: time.Now(), interval: time.Duration(float64(time.Second) / perSecond), limit: rate.NewLimiter(rate.Limit(perSecond*catchUp), atOnce),
		answers: map[string]map[int]int{},
	}
	for _, q := range a.questions(t) {
		c.questions = append(c.questions, slices.Repeat([]question{q}, q.often)...)
		c.answers[q.name] = map[int]int{}
	}
	kept, fresh := a.web(), a.freshWeb()
	var stops []func()
	for range clients {
		stops = append(stops, background(func(ctx context.Context) { c.ask(ctx, kept, fresh) }))
	}
	return func() (float64, map[int]int) {
		took := time.Since(c.begin)
		total := c.total()
		for _, stop := range stops {
			stop()
		}
		kept.CloseIdleConnections()
		sum := 0
		for status, n := range total {
			if status != 0 {
				sum += n
			}
		}
		got := float64(sum) / took.Seconds()
		t.Logf("strangers: %d answers in %s, %.0f a second, %d of them after a handshake of their own: %v", sum, took.Round(time.Millisecond), got, c.fresh.Load(), c.answers)
		c.check(t)
		return got, total
	}
}

// freshWeb is a client that makes a connection for each request.
func (s *site) freshWeb() *http.Client {
	c := s.web()
	c.Transport.(*http.Transport).DisableKeepAlives = true
	return c
}

// total counts the answers by status.
func (c *crowd) total() map[int]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := map[int]int{}
	for _, answers := range c.answers {
		for status, n := range answers {
			total[status] += n
		}
	}
	return total
}

// check fails for each question that had an answer which it must not have.
func (c *crowd) check(t *testing.T) {
	t.Helper()
	for _, q := range c.questions {
		for status := range c.answers[q.name] {
			if status != 0 && !slices.Contains(q.answers, status) {
				t.Errorf("%s is answered %d", q.name, status)
				delete(c.answers[q.name], status)
			}
		}
	}
}

// ask asks what is due next until ctx ends.
func (c *crowd) ask(ctx context.Context, kept, fresh *http.Client) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		i := c.next.Add(1)
		timer.Reset(time.Until(c.begin.Add(time.Duration(i) * c.interval)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if c.limit.Wait(ctx) != nil {
			return
		}
		q, web := c.questions[int(i)%len(c.questions)], kept
		if i%freshEvery == 0 {
			web = fresh
		}
		status := c.arena.status(ctx, web, q)
		if ctx.Err() != nil {
			return
		}
		if status != 0 && web == fresh {
			c.fresh.Add(1)
		}
		c.mu.Lock()
		c.answers[q.name][status]++
		c.mu.Unlock()
	}
}

// status is that of the answer to a question, 0 for none.
func (s *site) status(ctx context.Context, web *http.Client, q question) int {
	return statusOf(ctx, web, q.method, s.enrollURL(q.path), q.body)
}

// statusOf is that of a whole answer, 0 for none.
func statusOf(ctx context.Context, web *http.Client, method, url string, body []byte) int {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	res, err := web.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0
	}
	return res.StatusCode
}

// renew renews the certificate of a device over a connection of its own.
func (a *arena) renew(t *testing.T, d *device) {
	t.Helper()
	web := a.freshWeb()
	web.Transport.(*http.Transport).TLSClientConfig = a.tls(d.cert)
	status, reply, err := a.postTo(t.Context(), web, wire.PathRenew, encode(t, wire.RenewRequest{CSR: a.newRequest(t)}))
	if err != nil || reply.Certificate == "" {
		t.Errorf("the renewal of %s during the flood: %d %+v, %v", d.name, status, reply.Error, err)
	}
}

// comingIn lets devices enroll and renew their certificates, each of which costs
// the server more than any stranger does.
func (a *arena) comingIn(t *testing.T) (stop func()) {
	t.Helper()
	var renewing []*device
	for range 1 + int(max(a.scale.flood, settling)/renewalInterval)/renewalsAtOnce {
		renewing = append(renewing, a.attacker(t))
	}
	renewed, enrolled := 0, 0
	end := background(func(ctx context.Context) {
		tick := time.NewTicker(renewalInterval)
		defer tick.Stop()
		for ; ; renewed++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			a.renew(t, renewing[renewed%len(renewing)])
			if renewed%2 == 0 {
				valid, _ := a.enrollRequest(t, a.token)
				status, reply, err := a.post(t.Context(), a.freshWeb(), encode(t, valid))
				if err != nil || reply.Certificate == "" {
					t.Errorf("a valid device: %d %+v, %v", status, reply.Error, err)
				}
				enrolled++
			}
		}
	})
	return func() {
		end()
		t.Logf("%d renewals and %d enrollments", renewed, enrolled)
	}
}

// floodEnrollment sends requests of every kind that strangers have. Devices that
// are new still come in meanwhile, and others renew their certificates.
func (a *arena) floodEnrollment(t *testing.T, _ *device) {
	disperse := a.gather(t)
	time.Sleep(max(a.scale.flood, settling))
	got, answers := disperse()
	if !a.scale.strict {
		return
	}
	if got < float64(a.scale.enrolled) {
		t.Errorf("the flood had %.0f requests a second, want %d", got, a.scale.enrolled)
	}
	if answers[http.StatusTooManyRequests] == 0 {
		t.Error("nothing of the flood was too much")
	}
}
