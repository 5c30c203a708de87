// Package identity knows which keys may connect as which device, and which
// keys were thrown out for good.
package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/pki"
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
	// ErrNotReady: the registry has not been filled yet.
	ErrNotReady = errors.New("the server is starting")
)

// readyTimeout is how long a connection waits for a registry that is filled
// at start. Refused devices would back off for longer than the start takes.
const readyTimeout = 10 * time.Second

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
	// are good until Use is told of Next.
	Next string
	// Version says which version of the Device object names them.
	Version Version
}

// KeysOf returns the keys of a Device that has enrolled.
func KeysOf(d *v1alpha1.Device) Keys {
	e := d.Spec.Enrollment
	return Keys{Current: e.KeyFingerprint, Next: e.NextKeyFingerprint, Version: VersionOf(d)}
}

// VersionOf returns the version of a Device object.
func VersionOf(d *v1alpha1.Device) Version {
	return Version{UID: string(d.UID), Generation: d.Generation}
}

// Observer learns of keys that are out of the ordinary. Its methods must not
// block.
type Observer interface {
	// Stranger tells that a device with a certificate of this fleet, whose key was
	// never thrown out, is not known by that key. The API store may be older than
	// the certificate, which expires at expires.
	Stranger(device, fingerprint string, expires time.Time)
	// Retired tells that somebody shows a key that the device had earlier, and which
	// a renewal replaced.
	Retired(device string, s Shown)
}

// Shown is a key that somebody shows.
type Shown struct {
	// Fingerprint is that of the key.
	Fingerprint string
	// Session is the id that whoever shows it gives its session, or empty.
	Session string
	// Address is where it comes from.
	Address string
}

// Registry maps device names to the fingerprints of their keys. It is filled
// from the Device objects.
type Registry struct {
	fleet      string
	tombstones *Tombstones
	ready      chan struct{}
	readyOnce  sync.Once

	mu       sync.RWMutex // guards what follows
	observer Observer
	devices  map[string]entry
}

type entry struct {
	keys    Keys
	revoked bool
	// retired is the key before the current one, until its tombstone is written.
	retired string
}

// NewRegistry returns an empty registry for the trust domain fleet.
func NewRegistry(fleet string, tombstones *Tombstones) *Registry {
	return &Registry{fleet: fleet, tombstones: tombstones, ready: make(chan struct{}), devices: map[string]entry{}}
}

// Observe sets who is told of keys that are out of the ordinary.
func (r *Registry) Observe(o Observer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.observer = o
}

// Bind lets the holders of keys connect as device, instead of any earlier
// ones. It brings nobody back who was revoked, and does nothing when newer keys of
// the object are known: who watches the objects learns of a change later than who
// makes it.
func (r *Registry) Bind(device string, keys Keys) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.devices[device]
	if keys.Version.isBefore(known.keys.Version) {
		return
	}
	known.keys = keys
	r.devices[device] = known
}

// Revoke refuses a device from now on, until Unbind. It is what comes before
// the tombstone, which takes a write to the disk.
func (r *Registry) Revoke(device string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.devices[device]
	e.revoked = true
	r.devices[device] = e
}

// Unbind forgets a device.
func (r *Registry) Unbind(device string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.devices, device)
}

// UnbindAt forgets a device whose object has no keys at a version, unless newer
// keys of the object are known.
func (r *Registry) UnbindAt(device string, at Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !at.isBefore(r.devices[device].keys.Version) {
		delete(r.devices, device)
	}
}

// SetReady says that every Device object has been seen, and that devices may
// come in.
func (r *Registry) SetReady() { r.readyOnce.Do(func() { close(r.ready) }) }

// AuthenticateDevice implements broker.DeviceAuthenticator.
func (r *Registry) AuthenticateDevice(cert *x509.Certificate, session, address string) (string, error) {
	if _, err := r.named(cert); err != nil {
		return "", err
	}
	if err := r.waitReady(); err != nil {
		return "", err
	}
	device, err := r.Identify(cert, session, address)
	if err != nil {
		return "", err
	}
	fingerprint := pki.Fingerprint(cert.RawSubjectPublicKeyInfo)
	err = r.Admit(device, Shown{fingerprint, session, address})
	if errors.Is(err, ErrUnknown) || errors.Is(err, ErrOtherKey) {
		r.tell(func(o Observer) { o.Stranger(device, fingerprint, cert.NotAfter) })
	}
	if err != nil {
		return "", err
	}
	return device, nil
}

// Identify is Name, and tells the observer when the certificate is of a key that
// the device had long ago.
func (r *Registry) Identify(cert *x509.Certificate, session, address string) (string, error) {
	device, err := r.Name(cert)
	if errors.Is(err, ErrSuperseded) {
		if earlier, err := r.named(cert); err == nil {
			r.retired(earlier, Shown{pki.Fingerprint(cert.RawSubjectPublicKeyInfo), session, address})
		}
	}
	return device, err
}

// Admit is Check, and tells the observer when the key is one that the device had
// earlier.
func (r *Registry) Admit(device string, s Shown) error {
	err := r.Check(device, s.Fingerprint)
	if errors.Is(err, ErrRetired) {
		r.retired(device, s)
	}
	return err
}

// retired tells the observer of a key that a device had earlier, as long as there
// is that device.
func (r *Registry) retired(device string, s Shown) {
	r.mu.RLock()
	e, known := r.devices[device]
	r.mu.RUnlock()
	if known && !e.revoked {
		r.tell(func(o Observer) { o.Retired(device, s) })
	}
}

// Name returns the device that a certificate names, or ErrNotDevice or
// ErrSuperseded. The caller has verified who signed it.
func (r *Registry) Name(cert *x509.Certificate) (string, error) {
	device, err := r.named(cert)
	if err != nil {
		return "", err
	}
	if r.tombstones.Superseded(device, cert.NotAfter) {
		return "", fmt.Errorf("%w: %s", ErrSuperseded, device)
	}
	return device, nil
}

// named is Name for a certificate of any age.
func (r *Registry) named(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 {
		return "", ErrNotDevice
	}
	fleet, device, err := wire.ParseDeviceURI(cert.URIs[0])
	if err != nil || fleet != r.fleet {
		return "", ErrNotDevice
	}
	return device, nil
}

// Check returns nil when the holder of a key may be the device, or else
// ErrRevoked, ErrRetired, ErrUnknown or ErrOtherKey.
func (r *Registry) Check(device, fingerprint string) error {
	r.mu.RLock()
	e, known := r.devices[device]
	r.mu.RUnlock()
	switch {
	case e.revoked:
		return fmt.Errorf("%w: %s", ErrRevoked, device)
	case known && fingerprint == e.retired, r.tombstones.Renewed(fingerprint):
		return fmt.Errorf("%w: %s", ErrRetired, device)
	case r.tombstones.Has(fingerprint):
		return fmt.Errorf("%w: %s", ErrRevoked, device)
	case !known:
		return fmt.Errorf("%w %s", ErrUnknown, device)
	case fingerprint != e.keys.Current && fingerprint != e.keys.Next:
		return fmt.Errorf("%w: %s", ErrOtherKey, device)
	}
	return nil
}

// Keys returns the fingerprints of the keys that a device may connect with, the
// newest first. One that may not come in has none.
func (r *Registry) Keys(device string) []string {
	r.mu.RLock()
	keys := r.devices[device].keys
	r.mu.RUnlock()
	var good []string
	for _, fingerprint := range []string{keys.Next, keys.Current} {
		if fingerprint != "" && r.Check(device, fingerprint) == nil {
			good = append(good, fingerprint)
		}
	}
	return good
}

// Use makes a next key the only one, and reports whether it was one. The key
// before is refused from here on.
func (r *Registry) Use(device, fingerprint string) (renewed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.devices[device]
	if e.keys.Next == "" || fingerprint != e.keys.Next {
		return false
	}
	e.retired, e.keys.Current, e.keys.Next = e.keys.Current, fingerprint, ""
	r.devices[device] = e
	return true
}

func (r *Registry) tell(what func(Observer)) {
	r.mu.RLock()
	o := r.observer
	r.mu.RUnlock()
	if o != nil {
		what(o)
	}
}

func (r *Registry) waitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	select {
	case <-r.ready:
		return nil
	case <-ctx.Done():
		return ErrNotReady
	}
}
