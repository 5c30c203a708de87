package enroll

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/deviceapi/identity"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	fieldManager = "fleet-enrollment"
	// pollSeconds is how soon a device asks again while it waits for approval.
	pollSeconds = 5
	// maxTokenDevices is how many fingerprints a token's status remembers.
	maxTokenDevices = 1000
)

// Service decides about enrollment requests.
type Service struct {
	// Fleet is the trust domain of the certificates.
	Fleet      string
	Client     *client.Client
	PKI        *pki.PKI
	Registry   *identity.Registry
	Tombstones *identity.Tombstones
	Logger     *slog.Logger
	// Now is the clock.
	Now func() time.Time

	// counting lets one request at a time count a use: a site that enrolls with
	// one token would otherwise spend its time on conflicts.
	counting sync.Mutex
}

// applicant is a request that has the right form.
type applicant struct {
	device      string
	fingerprint string
	publicKey   any
	token       wire.Token
	inventory   wire.Inventory
}

// Enroll answers a request. An error is a *wire.Refusal, or a failure of the
// server itself that the device must not see.
func (s *Service) Enroll(ctx context.Context, req wire.EnrollRequest) (*wire.EnrollReply, error) {
	a, err := parse(req)
	if err != nil {
		return nil, err
	}
	token, err := s.checkToken(ctx, a)
	if err != nil {
		return nil, err
	}
	if s.Tombstones.Has(a.fingerprint) {
		return nil, refuse(wire.RefusedRevoked, "this device's key was revoked: ask for its Device to be deleted and for a new token")
	}
	device, err := s.Client.Devices().Get(ctx, a.device, metav1.GetOptions{})
	switch {
	case err == nil && device.Spec.Enrollment != nil && device.Spec.Enrollment.KeyFingerprint == a.fingerprint:
		return s.admit(ctx, a, device)
	case err == nil && device.Spec.Enrollment != nil:
		return nil, nameTaken(a.device)
	case err != nil && !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("looking up device %s: %w", a.device, err)
	}
	if err := s.countUse(ctx, a); err != nil {
		return nil, err
	}
	if !token.Spec.PreApproved {
		approved, err := s.approved(ctx, a)
		if err != nil {
			return nil, err
		}
		if !approved {
			return &wire.EnrollReply{Pending: true, RetryAfterSeconds: pollSeconds}, nil
		}
	}
	if device, err = s.bind(ctx, a, token); err != nil {
		return nil, err
	}
	return s.admit(ctx, a, device)
}

func parse(req wire.EnrollRequest) (*applicant, error) {
	token, err := wire.ParseToken(req.Token)
	if err != nil {
		return nil, refuse(wire.RefusedBadRequest, "%v", err)
	}
	if err := wire.ValidateDevice(req.Device); err != nil {
		return nil, refuse(wire.RefusedBadRequest, "%v: choose another with --name", err)
	}
	block, _ := pem.Decode([]byte(req.CSR))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, refuse(wire.RefusedBadRequest, "the request has no certificate request in PEM form")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, refuse(wire.RefusedBadRequest, "the certificate request is damaged or not signed by its own key")
	}
	return &applicant{
		device:      req.Device,
		fingerprint: pki.Fingerprint(csr.RawSubjectPublicKeyInfo),
		publicKey:   csr.PublicKey,
		token:       token,
		inventory:   req.Inventory,
	}, nil
}

// checkToken returns the token's object when the secret is right and the
// token has not expired. Whoever does not know the secret learns nothing about
// the token, not even that it exists.
func (s *Service) checkToken(ctx context.Context, a *applicant) (*v1alpha1.EnrollmentToken, error) {
	unknown := refuse(wire.RefusedToken, "the token is unknown or was removed: create a new one with `fleet-server token create`")
	if a.token.CAHash != wire.Digest(s.PKI.RootHash()) {
		return nil, unknown
	}
	token, err := s.Client.EnrollmentTokens().Get(ctx, a.token.ID, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !a.token.Matches(token.Spec.SecretHash) {
		s.Logger.Warn("enrollment refused: unknown token", "device", a.device, "token_id", a.token.ID)
		return nil, unknown
	}
	if err != nil {
		return nil, fmt.Errorf("looking up token %s: %w", a.token.ID, err)
	}
	if !s.Now().Before(token.Expiry()) {
		return nil, refuse(wire.RefusedToken, "the token expired at %s: create a new one with `fleet-server token create`", token.Expiry().UTC().Format(time.RFC3339))
	}
	return token, nil
}

// countUse takes one use of the token for this key, once.
func (s *Service) countUse(ctx context.Context, a *applicant) error {
	s.counting.Lock()
	defer s.counting.Unlock()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		token, err := s.Client.EnrollmentTokens().Get(ctx, a.token.ID, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if slices.Contains(token.Status.Devices, a.fingerprint) {
			return nil
		}
		if token.Status.Uses >= token.Spec.MaxUses {
			return refuse(wire.RefusedToken, "the token is used up (%d of %d uses): create a new one with `fleet-server token create`", token.Status.Uses, token.Spec.MaxUses)
		}
		token.Status.Uses++
		token.Status.Devices = append(token.Status.Devices, a.fingerprint)
		if n := len(token.Status.Devices) - maxTokenDevices; n > 0 {
			token.Status.Devices = token.Status.Devices[n:]
		}
		_, err = s.Client.EnrollmentTokens().UpdateStatus(ctx, token, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	return asRefusal(err, "counting a use of token "+a.token.ID)
}

// approved reports whether an operator approved the applicant, and records
// the request first if it is new.
func (s *Service) approved(ctx context.Context, a *applicant) (bool, error) {
	requests := s.Client.EnrollmentRequests()
	r, err := requests.Get(ctx, a.device, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		inventory := v1alpha1.Inventory(a.inventory)
		r, err = requests.Create(ctx, &v1alpha1.EnrollmentRequest{
			ObjectMeta: metav1.ObjectMeta{Name: a.device},
			Spec:       v1alpha1.EnrollmentRequestSpec{KeyFingerprint: a.fingerprint, Token: a.token.ID, Inventory: &inventory},
		}, metav1.CreateOptions{FieldManager: fieldManager})
		if err == nil {
			s.Logger.Info("enrollment waits for approval", "device", a.device, "fingerprint", a.fingerprint)
		}
	}
	switch {
	case err != nil:
		return false, fmt.Errorf("recording the request of device %s: %w", a.device, err)
	case r.Spec.KeyFingerprint != a.fingerprint:
		return false, nameTaken(a.device)
	case meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.RequestDenied):
		return false, refuse(wire.RefusedToken, "an operator denied this device")
	}
	return meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.RequestApproved), nil
}

// bind creates the Device, or takes one that an operator created beforehand
// and that no key is bound to.
func (s *Service) bind(ctx context.Context, a *applicant, token *v1alpha1.EnrollmentToken) (*v1alpha1.Device, error) {
	enrollment := &v1alpha1.DeviceEnrollment{
		KeyFingerprint:   a.fingerprint,
		Token:            token.Name,
		AllowedLabelKeys: token.Spec.AllowedLabelKeys,
		EnrolledAt:       metav1.NewTime(s.Now()),
	}
	d := &v1alpha1.Device{
		ObjectMeta: metav1.ObjectMeta{Name: a.device, Labels: token.Spec.Labels, Finalizers: []string{v1alpha1.DeviceFinalizer}},
		Spec:       v1alpha1.DeviceSpec{Enrollment: enrollment},
	}
	created, err := s.Client.Devices().Create(ctx, d, metav1.CreateOptions{FieldManager: fieldManager})
	if err == nil {
		s.Logger.Info("device enrolled", "device", a.device, "token_id", token.Name, "fingerprint", a.fingerprint)
		return created, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("creating device %s: %w", a.device, err)
	}
	return s.adopt(ctx, a, d)
}

func (s *Service) adopt(ctx context.Context, a *applicant, d *v1alpha1.Device) (*v1alpha1.Device, error) {
	var device *v1alpha1.Device
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		if device, err = s.Client.Devices().Get(ctx, a.device, metav1.GetOptions{}); err != nil {
			return err
		}
		if e := device.Spec.Enrollment; e != nil {
			if e.KeyFingerprint != a.fingerprint {
				return nameTaken(a.device)
			}
			return nil
		}
		device.Spec.Enrollment = d.Spec.Enrollment
		if device.Labels == nil {
			device.Labels = map[string]string{}
		}
		for k, v := range d.Labels {
			device.Labels[k] = v
		}
		device, err = s.Client.Devices().Update(ctx, device, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	return device, asRefusal(err, "binding device "+a.device)
}

// admit issues the certificate.
func (s *Service) admit(ctx context.Context, a *applicant, device *v1alpha1.Device) (*wire.EnrollReply, error) {
	if device.Spec.Revoked || !device.DeletionTimestamp.IsZero() {
		return nil, refuse(wire.RefusedRevoked, "the device %s was revoked or is being deleted", a.device)
	}
	uri, err := wire.DeviceURI(s.Fleet, a.device)
	if err != nil {
		return nil, err
	}
	chain, err := s.PKI.IssueDevice(a.device, uri, a.publicKey, s.Now())
	if err != nil {
		return nil, err
	}
	s.Registry.Bind(a.device, a.fingerprint)
	if err := s.Client.EnrollmentRequests().Delete(ctx, a.device, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		s.Logger.Warn("removing an answered enrollment request", "device", a.device, "error", err)
	}
	return &wire.EnrollReply{Certificate: string(pki.EncodeChain(chain)), Root: string(s.PKI.RootPEM())}, nil
}

func refuse(code wire.RefusalCode, format string, args ...any) error {
	return &wire.Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

func nameTaken(device string) error {
	return refuse(wire.RefusedNameTaken, "the name %q belongs to another device: choose another with --name, or delete that device first", device)
}

// asRefusal passes refusals on and wraps everything else.
func asRefusal(err error, doing string) error {
	if _, ok := errors.AsType[*wire.Refusal](err); err == nil || ok {
		return err
	}
	return fmt.Errorf("%s: %w", doing, err)
}
