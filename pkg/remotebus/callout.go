package remotebus

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// calloutSubject is what NATS asks on.
	calloutSubject = "$SYS.REQ.USER.AUTH"
	// xkeyHeader has the key of the server that encrypted a callout.
	xkeyHeader = "Nats-Server-Xkey"
	// maxCallouts is how many are answered at one time. Some wait until the gate opens.
	maxCallouts = 256
)

// errNotOurs: another process answers the callout.
var errNotOurs = errors.New("another process answers")

// errNoCertificate refuses whoever shows no certificate of a device.
var errNoCertificate = errors.New("no certificate of a device")

// answer answers one callout. Nobody may see why a device is refused but the log of NATS.
func (b *Bus) answer(m *nats.Msg) {
	select {
	case b.turns <- struct{}{}:
	default: // NATS takes no answer for a refusal, and the device asks again
		b.refused.WithLabelValues("overload").Inc()
		return
	}
	go func() {
		defer func() { <-b.turns }()
		b.guard.Do(func() {
			if reply := b.decide(m); reply != nil {
				_ = m.Respond(reply) // the server has gone: so has the connection
			}
		}, "subject", m.Subject)
	}()
}

// decide is the answer to a callout; nil for none, when it is none of NATS.
func (b *Bus) decide(m *nats.Msg) []byte {
	request, err := b.decode(m)
	if err != nil {
		b.refused.WithLabelValues("callout").Inc()
		b.log.Warn("a callout that cannot be read", "error", err)
		return nil
	}
	reply := jwt.NewAuthorizationResponseClaims(request.UserNkey)
	reply.Audience = request.Server.ID
	switch reply.Jwt, err = b.admit(request); {
	case errors.Is(err, errNotOurs):
		return nil
	case err != nil:
		b.refused.WithLabelValues("authentication").Inc()
		reply.Error = err.Error()
	}
	data, err := b.encode(reply, request.Server.XKey)
	if err != nil {
		b.log.Error("a callout cannot be answered", "error", err)
		return nil
	}
	return data
}

func (b *Bus) decode(m *nats.Msg) (*jwt.AuthorizationRequestClaims, error) {
	data := m.Data
	if server := m.Header.Get(xkeyHeader); server != "" {
		if b.Keys.XKey == nil {
			b.sealed.Store(true)
			return nil, ErrXKey
		}
		var err error
		if data, err = b.Keys.XKey.Open(data, server); err != nil {
			b.sealed.Store(true)
			return nil, ErrXKey
		}
	}
	request, err := jwt.DecodeAuthorizationRequestClaims(string(data))
	if err != nil {
		return nil, fmt.Errorf("reading the request of a callout: %w", err)
	}
	if request.Issuer != request.Server.ID {
		return nil, errors.New("the request of a callout is signed by another than its server")
	}
	return request, nil
}

// encode signs an answer, and encrypts it for a server that encrypts its callouts.
func (b *Bus) encode(reply *jwt.AuthorizationResponseClaims, server string) ([]byte, error) {
	text, err := reply.Encode(b.Keys.Issuer)
	if err != nil || server == "" || b.Keys.XKey == nil {
		return []byte(text), err
	}
	return b.Keys.XKey.Seal([]byte(text), server)
}

// admit decides about a connection and returns the claims that let it in.
func (b *Bus) admit(request *jwt.AuthorizationRequestClaims) (claims string, err error) {
	if request.ConnectOptions.Username == probeName {
		if request.ConnectOptions.Password != b.probe {
			return "", errNotOurs
		}
		b.asked.Store(true)
		return b.claims(request, probeName, time.Time{}, bus.Permissions{})
	}
	cert, err := b.certificate(request.TLS)
	if err != nil {
		return "", err
	}
	if device, err := b.Gate.Named(cert); err == nil && !b.owns(device) {
		return "", errNotOurs
	}
	address := request.ClientInformation.Host
	if net.ParseIP(address) != nil { // a port is not told
		address = net.JoinHostPort(address, "0")
	}
	at := place{request.Server.ID, request.ClientInformation.ID}
	device, permissions, err := b.admission.Admit(bus.Applicant{
		Cert: cert, Name: request.ConnectOptions.Name, Address: address, Number: func() uint64 { return b.connections.add(at, time.Now()) },
	})
	if err == nil { // NATS goes by its own clock
		claims, err = b.claims(request, device, time.Now().Add(cert.NotAfter.Sub(b.Now())), permissions)
	}
	if err != nil {
		b.ended(at)
	}
	return claims, err
}

// certificate is that of a device. NATS may have verified it by another authority, or not at
// all: only who was signed by an authority of devices is one.
func (b *Bus) certificate(tls *jwt.ClientTLS) (*x509.Certificate, error) {
	if tls == nil {
		return nil, errNoCertificate
	}
	shown := tls.Certs
	if len(tls.VerifiedChains) > 0 {
		shown = tls.VerifiedChains[0]
	}
	var chain []*x509.Certificate
	for _, text := range shown {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, errNoCertificate
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errNoCertificate
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, errNoCertificate
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, ca := range b.DeviceCAs.Certificates() {
		roots.AddCert(ca)
	}
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: b.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoCertificate, err)
	}
	return chain[0], nil
}

// claims lets the connection of a callout into the account of devices until a time, or for as
// long as it lasts when that is zero.
func (b *Bus) claims(request *jwt.AuthorizationRequestClaims, name string, until time.Time, p bus.Permissions) (string, error) {
	user := jwt.NewUserClaims(request.UserNkey)
	user.Name, user.Audience = name, bus.AccountDevices
	if !until.IsZero() {
		user.Expires = until.Unix()
	}
	user.Permissions.Pub.Allow, user.Permissions.Sub.Allow = p.Publish, p.Subscribe
	if len(p.Publish) == 0 {
		user.Permissions.Pub.Deny.Add(">")
		user.Permissions.Sub.Deny.Add(">")
	}
	user.Limits.Subs, user.Limits.Payload = bus.MaxSubscriptions, wire.MaxReply
	return user.Encode(b.Keys.Issuer)
}
