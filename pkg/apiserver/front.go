package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"fleet.nationtech.io/fleet/pkg/connlimit"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 90 * time.Second // as long as Go's clients keep connections
	maxHeader     = 64 << 10
	// Requests at once over one connection, and how much of their bodies is read
	// ahead.
	maxStreams = 100
	streamRead = 256 << 10
)

// front is the listener that others reach. Upstream's own listener is for the
// server's own clients: what is bounded here does not bound them.
type front struct {
	web      *http.Server
	listener *connlimit.Listener
}

func (b *builder) front(api http.Handler) *front {
	users := &users{authenticate: b.authenticator, refusals: b.Refusals}
	limited := newBounds(b.Sizes, b.Memory, max(2, runtime.GOMAXPROCS(0)), &bodies{b.codecs.UniversalDeserializer(), b.Refusals}, b.Refusals).handler(api)
	guarded := b.Queues.Loop("api-requests", b.Logger).Handler(users.handler(limited, newStrangers(b.Refusals).handler(api)))
	return &front{listener: b.Listener, web: &http.Server{
		Handler:           connlimit.Handler(guarded, 0, users.who),
		TLSConfig:         b.Handshakes.Config(b.frontTLS(), b.presentAuthorities),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerStream: streamRead, MaxReceiveBufferPerConnection: maxStreams * streamRead, MaxReadFrameSize: streamRead},
		ConnContext: connlimit.ConnContext,
		ErrorLog:    log.New(tlsErrors{b.Refusals}, "", 0),
	}}
}

func (b *builder) frontTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: b.Certificate, NextProtos: []string{"h2", "http/1.1"},
		// Requests verify the certificate that they come with: the health paths need none.
		ClientAuth: tls.RequestClientCert,
	}
}

// presentAuthorities names the authorities of the moment in a handshake:
// clients choose their certificate by that.
func (b *builder) presentAuthorities(*tls.ClientHelloInfo) (*tls.Config, error) {
	config := b.frontTLS()
	config.ClientCAs = b.clientCAs.pool()
	return config, nil
}

// serve serves until ctx ends, then lets requests finish for a moment.
func (f *front) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		_ = f.web.Shutdown(ctx) // whoever holds on to a connection loses it
		_ = f.web.Close()
	})
	defer stop()
	if err := f.web.ServeTLS(f.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// users tells administrators from strangers.
type users struct {
	authenticate authenticator.Request
	refusals     *prometheus.CounterVec
}

// who returns the name in the certificate that a request came with, if it is an
// administrator's. Whoever may do nothing is a stranger.
func (u *users) who(r *http.Request) (name string, ok bool) {
	response, ok, err := u.authenticate.AuthenticateRequest(r)
	if err != nil || !ok || !slices.Contains(response.User.GetGroups(), masters) {
		return "", false
	}
	return response.User.GetName(), true
}

// handler serves those that are known, and strangers, apart from each other.
func (u *users) handler(known, others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			if _, ok := u.who(r); ok {
				known.ServeHTTP(w, r)
				return
			}
		}
		others.ServeHTTP(w, r)
	})
}

// tlsErrors is the writer of an http.Server's log, which tells of handshakes
// that failed.
type tlsErrors struct{ refusals *prometheus.CounterVec }

// Write implements io.Writer.
func (e tlsErrors) Write(line []byte) (int, error) {
	e.refusals.WithLabelValues("tls").Inc()
	return len(line), nil
}

// strangers bounds how many requests of strangers are worked on at once. They
// may ask whether the server lives; what else they ask is refused.
type strangers struct {
	places   chan struct{}
	waiting  atomic.Int64
	refusals *prometheus.CounterVec
}

const (
	// maxAnonymous is how many requests of strangers are worked on at once.
	maxAnonymous = 4
	// maxAnonymousWaiting is how many wait: each takes memory, and one connection can
	// ask for a hundred.
	maxAnonymousWaiting = 64
	// anonymousPatience is how long one of them waits for its turn.
	anonymousPatience = 2 * time.Second
	// anonymousStall is how long one of them may take to read its answer, of which it
	// gets maxAnonymousAnswer bytes: as many as the checks of readiness with their names.
	anonymousStall     = 5 * time.Second
	maxAnonymousAnswer = 8 << 10
)

func newStrangers(refusals *prometheus.CounterVec) *strangers {
	return &strangers{places: make(chan struct{}, maxAnonymous), refusals: refusals}
}

func (a *strangers) handler(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(healthPaths, r.URL.Path) {
			a.refusals.WithLabelValues("authentication").Inc()
		}
		if !a.enter(r.Context()) {
			if r.Context().Err() == nil {
				a.refusals.WithLabelValues("rateLimited").Inc()
				tooMany(w, "too many requests without a certificate at this moment")
			}
			return
		}
		answerOf(api, r, a.places).send(w)
	})
}

// answerOf returns the answer to a request that has a place, and gives the place back.
func answerOf(api http.Handler, r *http.Request, places <-chan struct{}) *answer {
	defer func() { <-places }()
	a := &answer{page{header: http.Header{}, code: http.StatusOK}}
	api.ServeHTTP(a, r)
	return a
}

// answer is an answer to a stranger, in memory until it is sent.
type answer struct{ page }

// Write implements http.ResponseWriter. What is too long for a stranger is cut off.
func (a *answer) Write(p []byte) (int, error) {
	a.body.Write(p[:min(len(p), maxAnonymousAnswer-a.body.Len())])
	return len(p), nil
}

// send sends an answer to a client that has no place any more, and that may not read.
// Errors are the client's.
func (a *answer) send(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(anonymousStall))
	a.header.Set("Content-Length", strconv.Itoa(a.body.Len()))
	a.copyTo(w)
	_ = control.Flush()
	_ = control.SetWriteDeadline(time.Time{})
}

// enter waits for a place, among few.
func (a *strangers) enter(ctx context.Context) (ok bool) {
	if a.waiting.Add(1) > maxAnonymousWaiting {
		a.waiting.Add(-1)
		return false
	}
	defer a.waiting.Add(-1)
	timer := time.NewTimer(anonymousPatience)
	defer timer.Stop()
	select {
	case a.places <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// pool are the authorities of now.
func (c *clientCAs) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.pem())
	return pool
}
