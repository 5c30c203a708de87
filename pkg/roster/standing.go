package roster

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Reasons to refuse a device; match them with errors.Is.
var (
	// ErrNotDevice: the certificate names no device of this fleet.
	ErrNotDevice = errors.New("the certificate names no device of this fleet")
	// ErrUnknown: no Device object has this name.
	ErrUnknown = errors.New("unknown device")
	// ErrOtherKey: the Device object is bound to another key.
	ErrOtherKey = errors.New("the device is bound to another key")
	// ErrSuperseded: the certificate is of a key that the device had long ago.
	ErrSuperseded = errors.New("the device has had newer keys since this certificate")
	// ErrRevoked: the device was revoked or deleted.
	ErrRevoked = errors.New("the device was revoked")
	// ErrRetired: the device has renewed its certificate since, with another key.
	ErrRetired = errors.New("the key was replaced when the device renewed its certificate")
)

// Version says how new what somebody knows of a Device object is.
type Version struct {
	// UID is that of the object; another one has taken its place.
	UID string
	// Generation rises when the object's keys change.
	Generation int64
}

// isBefore reports whether v is an older version of the same object.
func (v Version) isBefore(w Version) bool { return v.UID == w.UID && v.Generation < w.Generation }

// Keys are the fingerprints of the keys of one device: SHA-256 of the public
// key in hex.
type Keys struct {
	// Current is the key that the device connects with.
	Current string
	// Next is a key that the device made to renew its certificate, or empty. Both
	// are good until the device has proven itself with Next.
	Next string
	// Version says which version of the Device object names them.
	Version Version
}

// standing is whether a device may come in, and with which keys.
type standing struct {
	keys Keys
	// bound: the device has keys, or had some when it was revoked.
	bound bool
	// retired is the previous key, until its tombstone is written.
	retired string
	// used is the key with which the device last proved itself. The object may still
	// have it as the next one, so it is kept when the keys are taken away. expires is
	// when the certificate ends that it came with.
	used    string
	expires time.Time
	// exit says how far a device is out.
	exit exit
	// revocation is what the device should do when it hears that it is revoked.
	revocation wire.Revocation
}

// exit is a stage on the way out.
type exit int

const (
	in exit = iota
	// leaving: it is refused, and has yet to be told and dropped.
	leaving
	// out: it was told and dropped.
	out
)

// Bind lets the holders of keys connect as device, instead of any earlier
// ones. It brings nobody back who was revoked, and does nothing when newer keys of
// the object are known: who watches the objects learns of a change later than who
// makes it. A next key with which the device has proven itself is its only one,
// even if the object does not say so yet.
func (r *Roster) Bind(name string, keys Keys) {
	r.change(name, func(d *device, _ *effects) {
		if keys.Version.isBefore(d.keys.Version) {
			return
		}
		if keys.Next != "" && keys.Next == d.used {
			keys.Current, keys.Next = keys.Next, ""
		}
		if keys.Current == d.retired { // an operator accepted the session that has the previous key
			d.retired = ""
		}
		d.keys, d.bound, d.forgotten = keys, true, false
	})
}

// Revoke refuses a device from now on, until Unbind, and has it told and dropped.
// It is what comes before the tombstone, which takes a write to the disk.
func (r *Roster) Revoke(name string, revocation wire.Revocation) {
	r.change(name, func(d *device, e *effects) {
		d.forgotten = false
		if d.exit == in {
			d.exit, d.revocation, e.leaves = leaving, revocation, name
		}
	})
}

// Left notes that a revoked device was told and dropped.
func (r *Roster) Left(name string) {
	r.update(name, func(d *device, e *effects) {
		if d.exit == leaving {
			d.exit = out
			e.changed(name)
		}
	})
}

// Leaving returns what a device should do that is revoked and has yet to be told
// and dropped.
func (r *Roster) Leaving(name string) (revocation wire.Revocation, is bool) {
	r.look(name, func(d *device) { revocation, is = d.revocation, d.exit == leaving })
	return revocation, is
}

// IsOut reports whether a device was revoked.
func (r *Roster) IsOut(name string) (is bool) {
	r.look(name, func(d *device) { is = d.exit != in })
	return is
}

// Unbind takes a device's keys away. It may be bound to others.
func (r *Roster) Unbind(name string) {
	r.update(name, func(d *device, _ *effects) { d.unbind(d.keys.Version) })
}

// unbind takes the keys of a version and of all before it away: whoever knows only an
// older one brings none back.
func (d *device) unbind(at Version) {
	d.standing = standing{keys: Keys{Version: at}, used: d.used, expires: d.expires}
}

// UnbindAt takes the keys of a device away whose object has none at a version,
// unless newer keys of the object are known.
func (r *Roster) UnbindAt(name string, at Version) {
	r.update(name, func(d *device, _ *effects) {
		if !at.isBefore(d.keys.Version) {
			d.unbind(at)
		}
	})
}

// use makes a next key with which the device has proven itself the only one. The
// previous key is refused from here on, and its connections end.
func (d *device) use(p Proof, e *effects) {
	d.used, d.expires = p.Key, p.Expires
	if d.keys.Next == "" || p.Key != d.keys.Next {
		return
	}
	d.retired, d.keys.Current, d.keys.Next = d.keys.Current, p.Key, ""
	e.drop = append(e.drop, idsOf(d.open, func(c Connection) bool { return c.Proof.Key != p.Key })...)
}

// Used returns the key with which a device last proved itself since the start, or
// empty, and when the certificate ends that it came with.
func (r *Roster) Used(name string) (key string, expires time.Time) {
	r.look(name, func(d *device) { key, expires = d.used, d.expires })
	return key, expires
}

// AuthenticateDevice returns the device that holds a certificate, whose chain and
// validity are verified, or why it may not come in. session is what the client
// calls its session, if it has one, address where it comes from.
func (r *Roster) AuthenticateDevice(cert *x509.Certificate, session, address string) (name string, err error) {
	if name, err = r.Identify(cert, session, address); err != nil {
		return "", err
	}
	key := fingerprint(cert)
	err = r.Admit(name, session, Proof{Key: key, Address: address})
	if errors.Is(err, ErrUnknown) || errors.Is(err, ErrOtherKey) {
		r.outside.Stranger(name, key, cert.NotAfter)
	}
	if err != nil {
		return "", err
	}
	return name, nil
}

// Identify is Name, and notes when the certificate is of a key that the device had
// long ago.
func (r *Roster) Identify(cert *x509.Certificate, session, address string) (string, error) {
	name, err := r.Name(cert)
	if errors.Is(err, ErrSuperseded) {
		if earlier, err := r.Named(cert); err == nil {
			r.showsRetired(earlier, session, Proof{Key: fingerprint(cert), Address: address})
		}
	}
	return name, err
}

// Admit is Check, and notes when the key is one that the device had earlier.
func (r *Roster) Admit(name, session string, shown Proof) error {
	err := r.Check(name, shown.Key)
	if errors.Is(err, ErrRetired) {
		r.showsRetired(name, session, shown)
	}
	return err
}

// Name returns the device that a certificate names, or ErrNotDevice or
// ErrSuperseded. The caller has verified who signed it.
func (r *Roster) Name(cert *x509.Certificate) (string, error) {
	name, err := r.Named(cert)
	if err != nil {
		return "", err
	}
	if r.revoked.Superseded(name, cert.NotAfter) {
		return "", fmt.Errorf("%w: %s", ErrSuperseded, name)
	}
	return name, nil
}

// Named is Name for a certificate of any age.
func (r *Roster) Named(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 {
		return "", ErrNotDevice
	}
	fleet, name, err := wire.ParseDeviceURI(cert.URIs[0])
	if err != nil || fleet != r.fleet {
		return "", ErrNotDevice
	}
	return name, nil
}

func fingerprint(cert *x509.Certificate) string {
	return wire.Sum(cert.RawSubjectPublicKeyInfo).String()
}

// Check returns nil when the holder of a key may be the device, or else
// ErrRevoked, ErrRetired, ErrUnknown or ErrOtherKey.
func (r *Roster) Check(name, key string) error {
	var s standing
	r.look(name, func(d *device) { s = d.standing })
	switch {
	case s.exit != in:
		return fmt.Errorf("%w: %s", ErrRevoked, name)
	case s.bound && key == s.retired, r.revoked.Renewed(key):
		return fmt.Errorf("%w: %s", ErrRetired, name)
	case r.revoked.Has(key):
		return fmt.Errorf("%w: %s", ErrRevoked, name)
	case !s.bound:
		return fmt.Errorf("%w %s", ErrUnknown, name)
	case key != s.keys.Current && key != s.keys.Next:
		return fmt.Errorf("%w: %s", ErrOtherKey, name)
	}
	return nil
}

// Keys returns the fingerprints of the keys that a device may connect with, the
// newest first. One that may not come in has none.
func (r *Roster) Keys(name string) (good []string) {
	var keys Keys
	r.look(name, func(d *device) { keys = d.keys })
	for _, key := range []string{keys.Next, keys.Current} {
		if key != "" && r.Check(name, key) == nil {
			good = append(good, key)
		}
	}
	return good
}
