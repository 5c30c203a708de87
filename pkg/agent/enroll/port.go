package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// maxReply bounds a reply: a certificate chain and two roots take under 10 KiB.
	maxReply = 64 << 10
	// maxHeader bounds the header of an answer.
	maxHeader = 64 << 10
	// requestTimeout bounds one exchange, so that a stuck server is asked again.
	requestTimeout = 20 * time.Second
	// Bounds of the pause between two requests while approval is awaited.
	minPause, maxPause = time.Second, time.Minute
	// maxBusy is how often a server that is busy is asked again, and maxBusyPause how
	// long after each time: some minutes in all. A site whose devices all enroll at
	// once waits for so long at a small gateway.
	maxBusy, maxBusyPause = 12, 20 * time.Second
	// dialTimeout tells an address where nobody is from a server that is busy.
	dialTimeout = 10 * time.Second
)

// port is the enrollment listener, reached over TLS that ends in known roots.
type port struct {
	base   *url.URL
	roots  *x509.CertPool
	clock  *clock.Clock
	way    *proxy.Proxy
	client *http.Client
}

// newPort trusts the given roots and nothing else. present is the certificate
// that the device shows; nil for none.
func newPort(base *url.URL, roots []*x509.Certificate, c *clock.Clock, way *proxy.Proxy, present *tls.Certificate) *port {
	if c == nil {
		c = clock.New(clock.Config{})
	}
	p := &port{base: base, roots: pool(roots), clock: c, way: way}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: p.roots, Time: c.Now}
	if present != nil {
		// Whatever issuers the server names, and although it may have expired.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return present, nil }
	}
	p.client = newClient(cfg, way)
	return p
}

func (p *port) close() { p.client.CloseIdleConnections() }

func newClient(cfg *tls.Config, way *proxy.Proxy) *http.Client {
	return &http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: refuseRedirect,
		Transport: &http.Transport{
			TLSClientConfig: cfg, MaxResponseHeaderBytes: maxHeader,
			DialContext: way.Dialer(&net.Dialer{Timeout: dialTimeout}).DialContext,
		},
	}
}

func refuseRedirect(*http.Request, []*http.Request) error {
	return errors.New("the server redirects, which fleet-server never does")
}

// await posts an enrollment request until it is granted or refused for good.
func (p *port) await(ctx context.Context, body []byte, patience *patience, pending func()) (*wire.EnrollReply, error) {
	told := false
	for {
		reply, err := p.enroll(ctx, body)
		switch {
		case err != nil:
			if err := patience.wait(ctx, err); err != nil {
				return nil, err
			}
			continue
		case !reply.Pending:
			return reply, nil
		case !told && pending != nil:
			pending()
		}
		told = true
		if err := pause(ctx, time.Duration(reply.RetryAfterSeconds)*time.Second); err != nil {
			return nil, fmt.Errorf("waiting for the server: %w", err)
		}
	}
}

// patience is what a device has with a server that is busy.
type patience struct {
	asked int
	told  func(why error) // once; may be nil
}

// wait returns nil when it is time to ask again after an error, which is returned
// where that is no use. It waits longer and longer, and not for all devices as
// long.
func (p *patience) wait(ctx context.Context, err error) error {
	if p.asked >= maxBusy || ctx.Err() != nil || !IsBusy(err) && !wasDropped(err) {
		return err
	}
	if p.asked == 0 && p.told != nil {
		p.told(err)
	}
	d := minPause + rand.N(min(minPause<<p.asked, maxBusyPause))
	p.asked++
	if err := pause(ctx, d); err != nil {
		return fmt.Errorf("waiting for the server: %w", err)
	}
	return nil
}

// errBusy is the answer that too many ask for the root.
var errBusy = errors.New("too many devices ask at this moment")

// IsBusy reports whether the server asks to come back later.
func IsBusy(err error) bool {
	refusal, ok := errors.AsType[*wire.Refusal](err)
	return ok && (refusal.Code == wire.RefusedUnavailable || refusal.Code == wire.RefusedRateLimited) || errors.Is(err, errBusy)
}

// wasDropped reports whether somebody was there, and gave no answer: a server to
// which very many come at once ends connections.
func wasDropped(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false
	}
	network, ok := errors.AsType[net.Error](err)
	return ok && network.Timeout() || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// enroll posts an enrollment request. When the server's certificate is not valid
// by the device's clock, it learns the time and posts again.
func (p *port) enroll(ctx context.Context, body []byte) (*wire.EnrollReply, error) {
	reply, _, err := p.post(ctx, wire.PathEnroll, "", body)
	if !clock.Untimely(err) {
		return reply, err
	}
	if learnErr := p.clock.Learn(ctx, clock.Source{Server: p.base, Roots: p.roots, Dial: p.way.Dialer(new(net.Dialer)).DialContext}); learnErr != nil {
		return nil, fmt.Errorf("%w; %w", err, learnErr)
	}
	reply, _, err = p.post(ctx, wire.PathEnroll, "", body)
	return reply, err
}

// post posts a request for a certificate. chain is the server's.
func (p *port) post(ctx context.Context, path, session string, body []byte) (reply *wire.EnrollReply, chain []*x509.Certificate, err error) {
	got, err := exchange(ctx, p.client, http.MethodPost, p.base.JoinPath(path).String(), session, body)
	if err != nil {
		return nil, nil, fmt.Errorf("asking for a certificate: %w", err)
	}
	if reply, err = decode(got); err != nil {
		return nil, nil, fmt.Errorf("asking for a certificate: %w", err)
	}
	return reply, got.chain, nil
}

func decode(got *answer) (*wire.EnrollReply, error) {
	reply, err := wire.Decode[wire.EnrollReply](got.body, maxReply)
	if err != nil {
		return nil, fmt.Errorf("%w: status %d", ErrReply, got.status)
	}
	switch {
	case reply.Error != nil && reply.Error.Code == wire.RefusedRevoked:
		return nil, &RevokedError{Refusal: reply.Error, Revocation: reply.Revocation}
	case reply.Error != nil:
		return nil, reply.Error
	case got.status == http.StatusAccepted && reply.Pending, got.status == http.StatusOK && reply.Certificate != "":
		return &reply, nil
	}
	return nil, fmt.Errorf("%w: status %d", ErrReply, got.status)
}

// answer is what came back, and the chain of who sent it.
type answer struct {
	status int
	body   []byte
	chain  []*x509.Certificate
}

func exchange(ctx context.Context, client *http.Client, method, url, session string, body []byte) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if session != "" {
		req.Header.Set(wire.HeaderSession, session)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	if err != nil {
		return nil, err
	}
	return &answer{status: res.StatusCode, body: reply, chain: res.TLS.PeerCertificates}, nil
}

// fetchPatiently asks again while the server says that too many ask.
func fetchPatiently(ctx context.Context, client *http.Client, url string, patience *patience) (*answer, error) {
	for {
		got, err := exchange(ctx, client, http.MethodGet, url, "", nil)
		if err == nil && got.status != http.StatusTooManyRequests && got.status != http.StatusServiceUnavailable {
			return got, nil
		}
		if err == nil {
			err = errBusy
		}
		if err := patience.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(min(max(d, minPause), maxPause))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
