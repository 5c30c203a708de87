// Package enroll is the agent's side of enrollment: it turns a token into a
// client certificate.
//
// The token carries the hash of the fleet's root key, so the agent needs no
// trust in the network: it fetches the root without verification, compares the
// hash, and sends the token only over TLS that this root vouches for. Nothing
// here touches the disk.
package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Errors of enrollment; match them with errors.Is. What the server refuses is
// a *wire.Refusal.
var (
	// ErrOtherServer: the server's root key is not the one that the token names.
	ErrOtherServer = errors.New("the token belongs to another server: ask for a token of this one, or check the address")
	// ErrReply: the server answered something that is no enrollment reply.
	ErrReply = errors.New("not the answer of a fleet-server's enrollment port")
	// ErrServerURL: the address has the wrong form.
	ErrServerURL = errors.New("the server's address must have the form https://HOST:8443")
)

const (
	// maxReply bounds a reply: a certificate chain and a root take under 10 KiB.
	maxReply = 64 << 10
	// requestTimeout bounds one exchange, so that a stuck server is asked again.
	requestTimeout = 20 * time.Second
	// Bounds of the pause between two requests while approval is awaited.
	minPause, maxPause = time.Second, time.Minute
	// maxBusy is how often a server that is busy is asked again: half a minute
	// when many devices enroll at once.
	maxBusy = 5
)

// Request is what a device asks for.
type Request struct {
	// Server is the URL of the enrollment listener: https://HOST:8443.
	Server string
	Token  string
	// Device is the id asked for.
	Device string
	// Key is the device's private key.
	Key       crypto.Signer
	Inventory wire.Inventory
	// Pending is called once when an operator has to approve the device; it may
	// be nil.
	Pending func()
}

// Result is what the device got.
type Result struct {
	// Device is the id in the certificate.
	Device string
	// Certificate and Root are PEM.
	Certificate, Root string
	// Servers are the NATS URLs.
	Servers []string
}

// NewKey makes a device key.
func NewKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
}

// Enroll obtains a certificate, and waits for approval as long as ctx lasts.
// To ask again with the same token and key is safe. Errors wrap wire.ErrToken,
// ErrServerURL, ErrOtherServer or ErrReply, are a *wire.Refusal, or come from
// the network.
func Enroll(ctx context.Context, req Request) (*Result, error) {
	token, err := wire.ParseToken(req.Token)
	if err != nil {
		return nil, err
	}
	if err := wire.ValidateDevice(req.Device); err != nil {
		return nil, err
	}
	base, err := parseServer(req.Server)
	if err != nil {
		return nil, err
	}
	root, err := fetchRoot(ctx, base, token.CAHash)
	if err != nil {
		return nil, err
	}
	body, err := encode(req, token)
	if err != nil {
		return nil, err
	}
	client := newClient(root)
	defer client.CloseIdleConnections()
	reply, err := await(ctx, client, base.JoinPath(wire.PathEnroll).String(), body, req.Pending)
	if err != nil {
		return nil, err
	}
	return check(reply, req, root)
}

func parseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
		return nil, fmt.Errorf("%w, not %.200q", ErrServerURL, server)
	}
	return u, nil
}

func encode(req Request, token wire.Token) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(cryptorand.Reader, &x509.CertificateRequest{}, req.Key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	body, err := json.Marshal(wire.EnrollRequest{
		Token:     token.Encode(),
		Device:    req.Device,
		CSR:       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		Inventory: req.Inventory,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the enrollment request: %w", err)
	}
	if len(body) > wire.MaxEnrollRequest {
		return nil, fmt.Errorf("the enrollment request has %d bytes, at most %d are allowed", len(body), wire.MaxEnrollRequest)
	}
	return body, nil
}

// fetchRoot gets the root certificate without verification: the hash in the
// token vouches for it.
func fetchRoot(ctx context.Context, base *url.URL, want wire.Digest) (*x509.Certificate, error) {
	client := &http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: refuseRedirect,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}, //nolint:gosec // the hash is checked below
		},
	}
	defer client.CloseIdleConnections()
	status, body, err := exchange(ctx, client, http.MethodGet, base.JoinPath(wire.PathCA).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("fetching the server's root certificate: %w", err)
	}
	root, err := parseCertificate(body)
	if status != http.StatusOK || err != nil {
		return nil, fmt.Errorf("fetching the server's root certificate: %w", ErrReply)
	}
	if wire.Sum(root.RawSubjectPublicKeyInfo) != want {
		return nil, ErrOtherServer
	}
	return root, nil
}

// newClient trusts the given root and nothing else.
func newClient(root *x509.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return &http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: refuseRedirect,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Time: notBefore(root)},
		},
	}
}

// notBefore is the clock that certificates are checked by. A device without a
// battery-backed clock may enroll before its time is set; a clock that is
// earlier than the root itself is certainly wrong.
func notBefore(root *x509.Certificate) func() time.Time {
	return func() time.Time {
		now := time.Now()
		if now.Before(root.NotBefore) {
			return root.NotBefore
		}
		return now
	}
}

func refuseRedirect(*http.Request, []*http.Request) error {
	return errors.New("the server redirects, which fleet-server never does")
}

// await posts the request until it is granted or refused for good.
func await(ctx context.Context, client *http.Client, url string, body []byte, pending func()) (*wire.EnrollReply, error) {
	told := false
	for busy := 0; ; {
		reply, err := post(ctx, client, url, body)
		wait := minPause
		switch {
		case isBusy(err) && busy < maxBusy:
			wait += rand.N(minPause << busy)
			busy++
		case err != nil:
			return nil, err
		case !reply.Pending:
			return reply, nil
		default:
			wait = time.Duration(reply.RetryAfterSeconds) * time.Second
			if !told && pending != nil {
				pending()
			}
			told = true
		}
		if err := pause(ctx, wait); err != nil {
			return nil, fmt.Errorf("waiting for the server: %w", err)
		}
	}
}

// isBusy reports whether the server asks to come back later.
func isBusy(err error) bool {
	refusal, ok := errors.AsType[*wire.Refusal](err)
	return ok && (refusal.Code == wire.RefusedUnavailable || refusal.Code == wire.RefusedRateLimited)
}

func post(ctx context.Context, client *http.Client, url string, body []byte) (*wire.EnrollReply, error) {
	status, data, err := exchange(ctx, client, http.MethodPost, url, body)
	if err != nil {
		return nil, fmt.Errorf("asking for a certificate: %w", err)
	}
	reply, err := wire.Decode[wire.EnrollReply](data, maxReply)
	if err != nil {
		return nil, fmt.Errorf("asking for a certificate: %w: status %d", ErrReply, status)
	}
	switch {
	case reply.Error != nil:
		return nil, fmt.Errorf("asking for a certificate: %w", reply.Error)
	case status == http.StatusAccepted && reply.Pending, status == http.StatusOK && reply.Certificate != "":
		return &reply, nil
	}
	return nil, fmt.Errorf("asking for a certificate: %w: status %d", ErrReply, status)
}

func exchange(ctx context.Context, client *http.Client, method, url string, body []byte) (status int, reply []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	reply, err = io.ReadAll(io.LimitReader(res.Body, maxReply+1))
	return res.StatusCode, reply, err
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
