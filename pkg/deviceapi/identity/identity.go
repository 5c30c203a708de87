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
	// ErrRevoked: the device was revoked or deleted.
	ErrRevoked = errors.New("the device was revoked")
	// ErrNotReady: the registry has not been filled yet.
	ErrNotReady = errors.New("the server is starting")
)

// readyTimeout is how long a connection waits for a registry that is filled
// at start. Refused devices would back off for longer than the start takes.
const readyTimeout = 10 * time.Second

// Registry maps device names to the fingerprints of their keys. It is filled
// from the Device objects.
type Registry struct {
	fleet      string
	tombstones *Tombstones
	ready      chan struct{}
	readyOnce  sync.Once

	mu   sync.RWMutex // guards keys
	keys map[string]string
}

// NewRegistry returns an empty registry for the trust domain fleet.
func NewRegistry(fleet string, tombstones *Tombstones) *Registry {
	return &Registry{fleet: fleet, tombstones: tombstones, ready: make(chan struct{}), keys: map[string]string{}}
}

// Bind lets the holder of a key connect as device, instead of any earlier key.
func (r *Registry) Bind(device, fingerprint string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[device] = fingerprint
}

// Unbind forgets a device.
func (r *Registry) Unbind(device string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, device)
}

// SetReady says that every Device object has been seen, and that devices may
// come in.
func (r *Registry) SetReady() { r.readyOnce.Do(func() { close(r.ready) }) }

// AuthenticateDevice implements broker.DeviceAuthenticator.
func (r *Registry) AuthenticateDevice(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 {
		return "", ErrNotDevice
	}
	fleet, device, err := wire.ParseDeviceURI(cert.URIs[0])
	if err != nil || fleet != r.fleet {
		return "", ErrNotDevice
	}
	if err := r.waitReady(); err != nil {
		return "", err
	}
	fingerprint := pki.Fingerprint(cert.RawSubjectPublicKeyInfo)
	if r.tombstones.Has(fingerprint) {
		return "", fmt.Errorf("%w: %s", ErrRevoked, device)
	}
	r.mu.RLock()
	bound, known := r.keys[device]
	r.mu.RUnlock()
	switch {
	case !known:
		return "", fmt.Errorf("%w %s", ErrUnknown, device)
	case bound != fingerprint:
		return "", fmt.Errorf("%w: %s", ErrOtherKey, device)
	}
	return device, nil
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
