package enrollment

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Holder is a device that proved, by TLS, that it has the key of a certificate
// of this fleet.
type Holder struct {
	Device, fingerprint string
	// session is what it calls its session, or empty, address where it comes from.
	session, address string
}

// Identify returns who presented a certificate chain, from an address, in what it
// calls its session, or none. The certificate may have expired: what counts is the
// key. An error is a *wire.Refusal.
func (s *Service) Identify(chain []*x509.Certificate, session, address string) (*Holder, error) {
	if len(chain) == 0 {
		return nil, refuse(wire.RefusedBadRequest, "a renewal needs the device's certificate")
	}
	leaf := chain[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: s.PKI.Device.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		CurrentTime: leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2),
	})
	h := &Holder{fingerprint: pki.Fingerprint(leaf.RawSubjectPublicKeyInfo), address: address}
	if wire.ValidSession(session) {
		h.session = session
	}
	if err == nil {
		h.Device, err = s.Roster.Identify(leaf, h.session, h.address)
	}
	if err != nil {
		return nil, refuse(wire.RefusedBadRequest, "the certificate is not one of a device of this server")
	}
	return h, nil
}

// IsDevice reports whether the holder knows the id of the session that is taken for
// the device. Only that session and the server do: whoever has the device's key
// alone may be a copy of it.
func (s *Service) IsDevice(h *Holder) bool {
	current := s.Roster.Current(h.Device)
	return current != "" && subtle.ConstantTimeCompare([]byte(current), []byte(h.session)) == 1
}

// MayComeIn reports whether the holder's key is one of its device's at present.
func (s *Service) MayComeIn(h *Holder) bool { return s.Roster.Check(h.Device, h.fingerprint) == nil }

// Renew answers the holder of a certificate with the next one. Errors are as
// for Enroll.
func (s *Service) Renew(ctx context.Context, h *Holder, req wire.RenewRequest) (*wire.EnrollReply, error) {
	switch err := s.Roster.Admit(h.Device, h.session, roster.Proof{Key: h.fingerprint, Address: h.address}); {
	case errors.Is(err, roster.ErrRevoked):
		return s.farewell(ctx, h)
	case errors.Is(err, roster.ErrRetired):
		return retired(h), nil
	case errors.Is(err, roster.ErrUnknown):
		return nil, refuse(wire.RefusedUnavailable, "this server does not know the device any more: an operator has to approve it again")
	case err != nil:
		return nil, refuse(wire.RefusedNameTaken, "the device %s has another key by now", h.Device)
	case s.Roster.Suspected(h.Device): // a key is all that a copy needs here
		return nil, roster.Quarantine()
	}
	csr, err := parseCSR(req.CSR)
	if err != nil {
		return nil, err
	}
	next := pki.Fingerprint(csr.RawSubjectPublicKeyInfo)
	defer s.claims.hold(next)()
	if err := s.mayHave(ctx, h.Device, next); err != nil {
		return nil, err
	}
	device, err := s.addKey(ctx, h, next)
	if err != nil {
		return nil, err
	}
	s.Roster.Bind(h.Device, client.KeysOf(device))
	reply, err := s.issue(h.Device, csr.PublicKey)
	if err != nil {
		return nil, err
	}
	s.Logger.Info("certificate renewed", "device", h.Device, "new_key", next != h.fingerprint)
	return reply, nil
}

// mayHave returns why a key cannot become a device's next one. The caller holds it.
func (s *Service) mayHave(ctx context.Context, device, next string) error {
	if s.Tombstones.Has(next) {
		return refuse(wire.RefusedKey, "the new key was revoked or replaced: make another")
	}
	other, err := s.otherHolder(ctx, next, device, s.deviceHolds, s.requestHolds)
	if err != nil {
		return err
	}
	if other != "" {
		return refuse(wire.RefusedKey, "the new key is that of %q, and a key has one name: make another", other)
	}
	s.claims.remember(next, device)
	return nil
}

// farewell tells a revoked device what to do with what it runs.
func (s *Service) farewell(ctx context.Context, h *Holder) (*wire.EnrollReply, error) {
	revocation, has := s.Tombstones.Revocation(h.fingerprint)
	if !has { // a moment before the tombstone
		d, err := s.Client.Devices().Get(ctx, h.Device, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("looking up device %s: %w", h.Device, err)
		}
		revocation = wire.Revocation(d.Spec.OnRevoke)
	}
	return &wire.EnrollReply{
		Error:      &wire.Refusal{Code: wire.RefusedRevoked, Message: "the device " + h.Device + " was revoked: to let it back in, enroll with a new token and --force"},
		Revocation: revocation,
	}, nil
}

// retired answers a device, or a copy of it, that asks with a key which a renewal
// replaced. It says what the tombstone of the key will say.
func retired(h *Holder) *wire.EnrollReply {
	return &wire.EnrollReply{Error: &wire.Refusal{
		Code:    wire.RefusedRevoked,
		Message: "this key of the device " + h.Device + " was replaced by a renewal: if this is the device, then a copy of it renewed the certificate; revoke it with `fleet-server device revoke`",
	}}
}

// mayDrop returns why a device may not give up the next key that it has, if any, for
// another.
func (s *Service) mayDrop(device, dropped string) error {
	if dropped == "" {
		return nil
	}
	if used, _ := s.Roster.Used(device); used == dropped {
		return refuse(wire.RefusedRateLimited, "the device %s begins to use its new key at this moment: try again in some minutes", device)
	}
	if !s.Roster.MayDropKey(device) {
		return refuse(wire.RefusedRateLimited, "the device %s asks for too many keys that it does not use: try again tomorrow, or with the key that it last asked for", device)
	}
	return nil
}

// addKey lets the device connect with a new key, beside the present one. A
// device that lost power asks again, with the same new key or with another. The
// present key makes room for none: only a session that has proven itself retires
// it. A new key that makes room is refused for good, so that no older backup brings
// it back. One that the device itself asked for makes no room for that of a copy.
func (s *Service) addKey(ctx context.Context, h *Holder, next string) (*v1alpha1.Device, error) {
	var device *v1alpha1.Device
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		if device, err = s.Client.Devices().Get(ctx, h.Device, metav1.GetOptions{}); err != nil {
			return err
		}
		e := device.Spec.Enrollment
		switch {
		case device.IsOut():
			return outOfService(h.Device)
		case !device.HasKey(h.fingerprint):
			return refuse(wire.RefusedNameTaken, "the device %s has another key by now", h.Device)
		}
		dropped, own := e.NextKeyFingerprint, s.IsDevice(h)
		if own {
			s.reserved.set(h.Device, next)
		}
		switch {
		case device.HasKey(next):
			return nil
		case !own && dropped != "" && s.reserved.has(h.Device, dropped):
			return refuse(wire.RefusedRateLimited, "another session of the device %s renews at this moment: try again in some minutes", h.Device)
		}
		if err := s.mayDrop(h.Device, dropped); err != nil {
			return err
		}
		e.NextKeyFingerprint = next
		if dropped != "" {
			if err := s.Tombstones.Add(tombstone.Entry{Fingerprint: dropped, Device: h.Device, Reason: tombstone.ReasonRenewed, Time: s.Clock.Now().UTC()}); err != nil {
				return err
			}
			s.Roster.DropKey(h.Device, dropped)
		}
		s.Metrics.Wrote(deviceKind, "renewal")
		device, err = s.Client.Devices().Update(ctx, device, metav1.UpdateOptions{FieldManager: enrollManager})
		return err
	})
	return device, asRefusal(err, "adding a key to device "+h.Device)
}
