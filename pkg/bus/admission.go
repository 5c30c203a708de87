package bus

import (
	"crypto/x509"
	"errors"
	"log/slog"

	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrOutdated: the client names no session, as agents do that are too old.
var ErrOutdated = errors.New("its agent is too old for this server: upgrade fleet-agent on the device")

// Admission lets connections of devices in that a Gate lets in, whichever NATS asks.
type Admission struct {
	Gate Gate
	// Crowded is called for each connection that takes the place of another.
	Crowded func()
	Log     *slog.Logger
	// MayLog bounds what the log says about devices that are refused: they are counted anyway.
	MayLog func() bool
}

// Applicant is a connection that wants to come in.
type Applicant struct {
	// Cert is what it has shown in TLS; chain and validity are verified.
	Cert *x509.Certificate
	// Name is what the client calls itself, and Address where it comes from.
	Name, Address string
	// Number returns the number of the connection by which the gate is told of it. It is called
	// for one that is about to come in alone.
	Number func() uint64
}

// Session is the id of the agent's run, which its client sends as its name; empty for none.
func (a Applicant) Session() string {
	if wire.ValidSession(a.Name) {
		return a.Name
	}
	return ""
}

// Admit returns the device of a connection and what it may say and hear, or the reason to
// refuse it: ErrOutdated, or one of package roster. The gate knows of a connection that is let
// in.
func (a *Admission) Admit(c Applicant) (device string, p Permissions, err error) {
	if device, err = a.authenticate(c); err != nil {
		return "", Permissions{}, err
	}
	session := c.Session()
	if session == "" {
		a.Gate.Outdated(device)
		a.refuse(c, ErrOutdated)
		return "", Permissions{}, ErrOutdated
	}
	if p, err = DevicePermissions(device, session); err != nil {
		a.refuse(c, err)
		return "", Permissions{}, err
	}
	number := c.Number()
	crowded, err := a.Gate.Connected(device, roster.Connection{
		ID: number, Session: session,
		Proof: roster.Proof{Key: wire.Sum(c.Cert.RawSubjectPublicKeyInfo).String(), Expires: c.Cert.NotAfter, Address: c.Address},
	})
	if err != nil { // barred, which is logged, forgotten a moment ago, or another session over the same connection
		return "", Permissions{}, err
	}
	if crowded {
		a.Crowded()
	}
	// Once more: if it was revoked meanwhile, its connection was not there yet to be dropped.
	if _, err := a.authenticate(c); err != nil {
		a.Gate.Disconnected(number)
		return "", Permissions{}, err
	}
	return device, p, nil
}

// authenticate returns the device that a certificate is of, if it may come in.
func (a *Admission) authenticate(c Applicant) (device string, err error) {
	device, err = a.Gate.AuthenticateDevice(c.Cert, c.Session(), c.Address)
	if err != nil {
		a.refuse(c, err)
	}
	return device, err
}

func (a *Admission) refuse(c Applicant, err error) {
	if a.MayLog() {
		a.Log.Warn("device refused", "device", c.Cert.Subject.CommonName, "remote", c.Address, "error", err)
	}
}
