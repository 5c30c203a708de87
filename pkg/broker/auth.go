package broker

import (
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"fleet.nationtech.io/fleet/pkg/bus"
	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/guard"
)

// accountReaders is the account of operators who read the buckets. The others are those of
// any NATS.
const accountReaders = "READ"

// authenticator implements server.Authentication.
type authenticator struct {
	guard     *guard.Guard
	admission bus.Admission
	operators Authority
	now       func() time.Time
	log       *slog.Logger
	// secret is the password of the connections inside the process. A client
	// over TLS cannot use it: what it sends as a password is not looked at.
	secret string
	// accounts are those of the running server; a login fails with the ones that
	// went into the options.
	accounts map[string]*server.Account
}

func newSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// Check implements server.Authentication. A mistake of the program costs one connection.
func (a *authenticator) Check(c server.ClientAuthentication) (admitted bool) {
	if err := a.guard.Try(func() error { admitted = a.check(c); return nil }, "remote", remoteOf(c)); err != nil {
		a.guard.Do(func() { a.admission.Gate.Disconnected(c.GetID()) }) // it may have been told that it is there
	}
	return admitted
}

func (a *authenticator) check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	if state := c.GetTLSConnectionState(); state != nil {
		if len(state.VerifiedChains) == 0 {
			return false
		}
		chain := state.VerifiedChains[0]
		if isOneOf(chain[len(chain)-1], a.operators) {
			return a.checkReader(c, chain[0])
		}
		if !a.checkDevice(c, chain[0]) {
			return false
		}
		forgetCertificate(state)
		return true
	}
	return a.checkInternal(c)
}

// noCertificate is what a connection has in place of its device's.
var noCertificate = &x509.Certificate{}

// forgetCertificate takes a device's certificate, which would stay for as long as the
// connection and takes 6 KB, from the state of the connection. That has the lists of the
// connection itself. If a later version of Go copies them, the connection keeps what it
// has. One that says again who it is ends.
func forgetCertificate(state *tls.ConnectionState) {
	for i := range state.PeerCertificates {
		state.PeerCertificates[i] = noCertificate
	}
	for _, chain := range state.VerifiedChains { // they end with the authority
		for i := range len(chain) - 1 {
			chain[i] = noCertificate
		}
	}
}

// isOneOf reports whether a certificate, the end of a verified chain, is one
// of an authority's.
func isOneOf(cert *x509.Certificate, a Authority) bool {
	return slices.ContainsFunc(a.Certificates(), cert.Equal)
}

// checkInternal admits connections inside the process: the listener requires
// TLS, so nothing else comes without it.
func (a *authenticator) checkInternal(c server.ClientAuthentication) bool {
	opts := c.GetOpts()
	if subtle.ConstantTimeCompare([]byte(opts.Password), []byte(a.secret)) != 1 {
		return false
	}
	account, ok := a.accounts[opts.Username]
	if !ok {
		return false
	}
	c.RegisterUser(&server.User{Username: opts.Username, Account: account})
	return true
}

func (a *authenticator) checkDevice(c server.ClientAuthentication, cert *x509.Certificate) bool {
	device, p, err := a.admission.Admit(bus.Applicant{Cert: cert, Name: c.GetOpts().Name, Address: remoteOf(c), Number: c.GetID})
	if err != nil {
		return false
	}
	if a.place(c, device, 0) == nil {
		a.admission.Gate.Disconnected(c.GetID())
		return false
	}
	c.RegisterUser(&server.User{Username: device, Account: a.accounts[bus.AccountDevices], Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: p.Publish},
		Subscribe: &server.SubjectPermission{Allow: p.Subscribe},
	}})
	return true
}

// place moves a connection to the places for those that are known, for as long
// as it lasts. A holder may have so many, zero for any number. It returns nil
// when there is no place.
func (a *authenticator) place(c server.ClientAuthentication, holder string, most int) *connlimit.Conn {
	conn, ok := connlimit.Of(c.RemoteAddress())
	if !ok {
		return nil // it ended meanwhile
	}
	if err := conn.Know(holder, most); err != nil {
		a.log.Warn("connection refused", "holder", holder, "remote", remoteOf(c), "error", err)
		return nil
	}
	conn.Busy()
	return conn
}

// remoteOf is the address that a connection comes from, or empty: it may end at any
// moment, and has none then.
func remoteOf(c server.ClientAuthentication) string {
	if a := c.RemoteAddress(); a != nil {
		return a.String()
	}
	return ""
}
