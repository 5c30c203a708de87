package enroll

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrPending: the server does not grant a certificate at present.
var ErrPending = errors.New("an operator has to approve the renewal")

// Renewal asks for the next certificate of a device.
type Renewal struct {
	// Server is the URL of the enrollment listener: https://HOST:8443.
	Server string
	Device string
	// Present is the certificate in force, which may have expired.
	Present *tls.Certificate
	// Next is the key of the next one.
	Next crypto.Signer
	// Session is the id of the agent's session on the bus: by it the server knows the
	// device from a copy, which has its key as well.
	Session string
	// Root is the pinned roots in PEM.
	Root  string
	Clock *clock.Clock
	// Proxy is the way to the server; nil for the direct one.
	Proxy *proxy.Proxy
}

// Renew obtains the next certificate. It asks once; to ask again with the same
// key is safe. Errors are a *wire.Refusal or a *RevokedError, wrap ErrServerURL,
// ErrReply or ErrPending, or come from the network. For one that is
// clock.Untimely the caller should learn the time, and see whether the
// certificate has to be renewed at all.
func Renew(ctx context.Context, r Renewal) (*Result, error) {
	base, err := parseServer(r.Server)
	if err != nil {
		return nil, err
	}
	pinned, err := parseCertificates([]byte(r.Root))
	if err != nil {
		return nil, fmt.Errorf("loading the pinned roots: %w", err)
	}
	csr, err := signingRequest(r.Next)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(wire.RenewRequest{CSR: csr})
	if err != nil {
		return nil, fmt.Errorf("encoding the request for renewal: %w", err)
	}
	p := newPort(base, pinned, r.Clock, r.Proxy, r.Present)
	defer p.close()
	reply, chain, err := p.post(ctx, wire.PathRenew, r.Session, body)
	if err != nil {
		return nil, err
	}
	if reply.Pending {
		return nil, ErrPending
	}
	return checkRenewed(reply, r, pinned, chain)
}

// checkRenewed verifies what renewal brought. chain is the server's.
func checkRenewed(reply *wire.EnrollReply, r Renewal, pinned, chain []*x509.Certificate) (*Result, error) {
	roots := pinned
	if reply.Root != "" {
		next, err := parseCertificates([]byte(reply.Root))
		if err != nil {
			return nil, fmt.Errorf("checking the root certificates: %w", err)
		}
		// Roots that the server itself does not end in would lock the device out.
		if err := verify(chain, next, r.Clock.Now(), x509.ExtKeyUsageServerAuth); err != nil {
			return nil, fmt.Errorf("checking the root certificates: %w: the server's own certificate does not end in them: %w", ErrReply, err)
		}
		roots = next
	}
	both := append(roots[:len(roots):len(roots)], pinned...)
	if err := checkCertificate(reply.Certificate, r.Device, r.Next, both, r.Clock.Now()); err != nil {
		return nil, fmt.Errorf("checking the certificate: %w", err)
	}
	if err := checkServers(reply.Servers); err != nil {
		return nil, err
	}
	return &Result{Device: r.Device, Certificate: reply.Certificate, Root: encodeRoots(roots), Servers: reply.Servers}, nil
}
