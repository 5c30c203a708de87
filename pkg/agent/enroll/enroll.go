// Package enroll is the agent's side of enrollment: it turns a token into a
// client certificate, and that into the next one.
//
// The token carries the hash of the fleet's root key, so the agent needs no
// trust in the network: it fetches the root without verification, compares the
// hash, and sends the token only over TLS that this root vouches for. Nothing
// here touches the disk.
package enroll

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
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
	// HardwareID is that of package facts; may be empty.
	HardwareID string
	// Clock is the time that certificates are checked by; nil for one that begins
	// with the system's.
	Clock *clock.Clock
	// Proxy is the way to the server; nil for the direct one.
	Proxy *proxy.Proxy
	// Pending is called once when an operator has to approve the device; it may
	// be nil.
	Pending func()
	// Busy is called once with why the server is asked again, which goes on for some
	// minutes; it may be nil.
	Busy func(why error)
}

// Result is what the device got.
type Result struct {
	// Device is the id in the certificate.
	Device string
	// Certificate and Root are PEM. There may be several roots.
	Certificate, Root string
	// Servers are the NATS URLs. At a renewal none means that nothing changed.
	Servers []string
}

// RevokedError is the refusal of a revoked device.
type RevokedError struct {
	*wire.Refusal
	// Revocation is what the device should do with what it runs.
	Revocation wire.Revocation
}

// Unwrap returns the *wire.Refusal.
func (e *RevokedError) Unwrap() error { return e.Refusal }

// Enroll obtains a certificate, and waits for approval as long as ctx lasts.
// To ask again with the same token and key is safe. Errors wrap wire.ErrToken,
// ErrServerURL, ErrOtherServer, ErrReply or clock.ErrTime, are a *wire.Refusal or
// a *RevokedError, or come from the network.
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
	if base.Port() == "" { // a slip: nobody enrolls at 443
		return nil, fmt.Errorf("%w, not %.200q", ErrServerURL, req.Server)
	}
	patience := &patience{told: req.Busy}
	root, err := fetchRoot(ctx, base, token.CAHash, req.Proxy, patience)
	if err != nil {
		return nil, err
	}
	body, err := encode(req, token)
	if err != nil {
		return nil, err
	}
	p := newPort(base, []*x509.Certificate{root}, req.Clock, req.Proxy, nil)
	defer p.close()
	p.clock.NotBefore(root.NotBefore)
	reply, err := p.await(ctx, body, patience, req.Pending)
	if err != nil {
		return nil, err
	}
	return checkEnrolled(reply, req, root, p.clock.Now())
}

// FetchRoot returns the root certificate of a server whose key has a hash, in
// hex, such as a token names. way is nil for the direct one. Errors wrap ErrServerURL, ErrOtherServer or
// ErrReply, or come from the network.
func FetchRoot(ctx context.Context, server, hash string, way *proxy.Proxy) (*x509.Certificate, error) {
	base, err := parseServer(server)
	if err != nil {
		return nil, err
	}
	var want wire.Digest
	if n, err := hex.Decode(want[:], []byte(hash)); err != nil || n != len(want) {
		return nil, ErrOtherServer
	}
	return fetchRoot(ctx, base, want, way, &patience{})
}

// CanonicalServer returns the one form of a server's address: however it is
// written, it is the same server.
func CanonicalServer(server string) (string, error) {
	u, err := parseServer(server)
	if err != nil {
		return "", err
	}
	return "https://" + strings.ToLower(u.Host), nil
}

func parseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err == nil {
		_, err = net.LookupPort("tcp", u.Port()) // none is the usual one
	}
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || (u.Path != "" && u.Path != "/") || u.RawQuery != "" {
		return nil, fmt.Errorf("%w, not %.200q", ErrServerURL, server)
	}
	return u, nil
}

func encode(req Request, token wire.Token) ([]byte, error) {
	csr, err := signingRequest(req.Key)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(wire.EnrollRequest{
		Token:      token.Encode(),
		Device:     req.Device,
		CSR:        csr,
		HardwareID: req.HardwareID,
		Inventory:  req.Inventory,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the enrollment request: %w", err)
	}
	if len(body) > wire.MaxEnrollRequest {
		return nil, fmt.Errorf("the enrollment request has %d bytes, at most %d are allowed", len(body), wire.MaxEnrollRequest)
	}
	return body, nil
}

// signingRequest is a PKCS #10 request for a key, in PEM.
func signingRequest(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", fmt.Errorf("making a certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// fetchRoot gets the root certificate without verification: the hash in the
// token vouches for it. While a root is replaced the server has two.
func fetchRoot(ctx context.Context, base *url.URL, want wire.Digest, way *proxy.Proxy, patience *patience) (*x509.Certificate, error) {
	client := newClient(&tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}, way) //nolint:gosec // the hash is checked below
	defer client.CloseIdleConnections()
	got, err := fetchPatiently(ctx, client, base.JoinPath(wire.PathCA).String(), patience)
	if _, ok := errors.AsType[*proxy.Error](err); ok {
		return nil, fmt.Errorf("fetching the server's root certificate: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("fetching the server's root certificate: %w: is it the enrollment port of a fleet-server that runs?", err)
	}
	roots, err := parseCertificates(got.body)
	if got.status != http.StatusOK || err != nil {
		return nil, fmt.Errorf("fetching the server's root certificate: %w", ErrReply)
	}
	for _, root := range roots {
		if wire.Sum(root.RawSubjectPublicKeyInfo) == want {
			return root, nil
		}
	}
	return nil, ErrOtherServer
}
