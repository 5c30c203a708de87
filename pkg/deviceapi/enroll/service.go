package enroll

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	fieldManager = "fleet-enrollment"
	// pollSeconds is how soon a device asks again while it waits for approval.
	pollSeconds = 5
	// maxTokenUses is how many uses a token's status remembers.
	maxTokenUses = 1000
	// decisionTimeout bounds a decision, which nobody can break off.
	decisionTimeout = 30 * time.Second
)

// errPrepared: an operator prepared the Device that a token would take.
var errPrepared = errors.New("the Device was prepared by an operator")

// Clock is the server's clock.
type Clock interface {
	Now() time.Time
	// Sane returns why the clock cannot be believed, or nil.
	Sane() error
}

// Service decides about enrollment requests.
type Service struct {
	// Fleet is the trust domain of the certificates.
	Fleet  string
	Client *client.Client
	// Tokens is a cache of the EnrollmentTokens.
	Tokens cache.Store
	// Holders are caches of Devices and EnrollmentRequests, with KeyIndexers.
	Holders    []cache.Indexer
	PKI        *pki.PKI
	Roster     *roster.Roster
	Tombstones *tombstone.List
	// ForgetReports removes what the machine reported that another one replaces.
	ForgetReports func(device string)
	Logger        *slog.Logger
	Clock         Clock

	// counting lets one request at a time count a use: a site that enrolls with
	// one token would otherwise spend its time on conflicts.
	counting sync.Mutex
	claims   claims
	reserved reserved
}

// applicant is a request that has the right form.
type applicant struct {
	device      string
	fingerprint string
	publicKey   any
	csr         string
	token       wire.Token
	hardwareID  string
	address     string
	inventory   wire.Inventory
}

// Enroll answers a request. An error is a *wire.Refusal, or a failure of the
// server itself that the device must not see.
func (s *Service) Enroll(ctx context.Context, a *applicant) (*wire.EnrollReply, error) {
	// Whoever hangs up must not leave a write behind whose end nobody knows.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), decisionTimeout)
	defer cancel()
	defer s.claims.hold(a.fingerprint)()
	token, err := s.presentToken(ctx, a)
	if err != nil {
		return nil, err
	}
	if s.Tombstones.Has(a.fingerprint) {
		return nil, refuse(wire.RefusedRevoked, "this device's key was revoked or replaced: it needs a new key, a new token, and another name while there is a Device %s", a.device)
	}
	device, err := s.device(ctx, a.device)
	if err != nil {
		return nil, err
	}
	asked, err := s.request(ctx, a.device)
	if err != nil {
		return nil, err
	}
	taken := device != nil && device.Spec.Enrollment != nil
	switch {
	case taken && device.HasKey(a.fingerprint) && s.Tombstones.Outdated(device):
		return nil, refuse(wire.RefusedRevoked, "device %s has had other keys since the backup that this server was restored from: make a new key, and have the device replaced", a.device)
	case taken && device.HasKey(a.fingerprint):
		return s.admit(ctx, a, device, asked)
	case taken && device.IsOut():
		return nil, nameOut(a.device)
	case taken && token.Spec.Replaces != a.device:
		return nil, nameTaken(a.device)
	}
	vouched := vouches(token, a, device)
	if asked != nil {
		if err := mayAskBeside(asked, a, vouched && token.Spec.Replaces == a.device, vouched); err != nil {
			return nil, err
		}
		if !vouched && asked.Spec.KeyFingerprint == a.fingerprint && asked.Spec.Token == token.Name {
			return pending(), nil // its use was counted when it asked first
		}
	}
	return s.enrollNew(ctx, a, token, device, asked)
}

// enrollNew lets an applicant ask, or in, who is not known yet.
func (s *Service) enrollNew(ctx context.Context, a *applicant, token *v1alpha1.EnrollmentToken, device *v1alpha1.Device, asked *v1alpha1.EnrollmentRequest) (*wire.EnrollReply, error) {
	other, err := s.otherHolder(ctx, a.fingerprint, a.device, token.Status.UsedBy, s.deviceHolds, s.requestHolds)
	if err != nil {
		return nil, err
	}
	if other != "" {
		return nil, keyTaken(other)
	}
	if token, err = s.countUse(ctx, a); err != nil {
		return nil, err
	}
	s.claims.remember(a.fingerprint, a.device)
	if !vouches(token, a, device) {
		return s.await(ctx, a, token)
	}
	device, err = s.bind(ctx, newRequest(a, token), token.Spec.Replaces == a.device)
	if errors.Is(err, errPrepared) { // a moment ago
		return s.await(ctx, a, token)
	}
	if err != nil {
		return nil, err
	}
	return s.admit(ctx, a, device, asked)
}

// vouches reports whether a token lets an applicant in without an operator. A
// Device that somebody prepared has labels and rights of its own: who gets them is
// for an operator to say, not for a token that anybody may have.
func vouches(token *v1alpha1.EnrollmentToken, a *applicant, device *v1alpha1.Device) bool {
	return token.Spec.PreApproved && (device == nil || token.Spec.Replaces == a.device)
}

// mayAskBeside returns why an applicant may not have the name that a request
// asks for already. named says that the applicant's token lets it have this very
// name, vouched that it lets it have any.
func mayAskBeside(r *v1alpha1.EnrollmentRequest, a *applicant, named, vouched bool) error {
	own := r.Spec.KeyFingerprint == a.fingerprint
	switch {
	case own && r.IsDenied():
		return refuse(wire.RefusedToken, "an operator denied this device")
	case own, named:
		return nil
	case r.IsDenied():
		return refuse(wire.RefusedNameTaken, "an operator denied the name %q to another machine: choose another with --name, or have it opened with `fleet-server device reopen %s`", a.device, a.device)
	case vouched:
		return nil
	}
	return refuse(wire.RefusedNameTaken, "another machine waits for approval under the name %q: choose another with --name, or have that one denied with `fleet-server device deny %s` and the name opened with `device reopen`", a.device, a.device)
}

func pending() *wire.EnrollReply {
	return &wire.EnrollReply{Pending: true, RetryAfterSeconds: pollSeconds}
}

// parse checks the form of a request.
func parse(req wire.EnrollRequest, token wire.Token) (*applicant, error) {
	if err := wire.ValidateDevice(req.Device); err != nil {
		return nil, refuse(wire.RefusedBadRequest, "%v: choose another with --name", err)
	}
	if req.HardwareID != "" && !wire.ValidHash(req.HardwareID) {
		return nil, refuse(wire.RefusedBadRequest, "the hardware id is not what fleet-agent hardware-id prints")
	}
	csr, err := parseCSR(req.CSR)
	if err != nil {
		return nil, err
	}
	return &applicant{
		device:      req.Device,
		fingerprint: pki.Fingerprint(csr.RawSubjectPublicKeyInfo),
		publicKey:   csr.PublicKey,
		csr:         req.CSR,
		token:       token,
		hardwareID:  req.HardwareID,
		inventory:   req.Inventory.Printable(),
	}, nil
}

// parseCSR decodes a certificate request, which proves that its sender has the
// key. Other keys than P-256 are refused: nothing of ours makes them.
func parseCSR(text string) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, refuse(wire.RefusedBadRequest, "the request has no certificate request in PEM form")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		return nil, refuse(wire.RefusedBadRequest, "the certificate request is damaged or not signed by its own key")
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, refuse(wire.RefusedBadRequest, "the key of the certificate request is not ECDSA P-256")
	}
	// ASN.1 has room for more than the key, and another fingerprint of it would be
	// that of a key which nobody knows.
	if spki, err := x509.MarshalPKIXPublicKey(csr.PublicKey); err != nil || !bytes.Equal(spki, csr.RawSubjectPublicKeyInfo) {
		return nil, refuse(wire.RefusedBadRequest, "the key of the certificate request is encoded in an unusual way")
	}
	return csr, nil
}

// findToken returns the token's object when the secret is right. Whoever does
// not know the secret learns nothing about the token, not even that it exists.
// ask says whether the API may be asked for a token that the cache does not
// have, because it was created a moment ago.
func (s *Service) findToken(ctx context.Context, shown wire.Token, ask func() bool) (*v1alpha1.EnrollmentToken, error) {
	if !s.PKI.HasRoot(shown.CAHash) {
		return nil, unknownToken()
	}
	token, err := s.lookUpToken(ctx, shown.ID, ask)
	if err != nil {
		return nil, err
	}
	if !shown.Matches(token.Spec.SecretHash) {
		return nil, unknownToken()
	}
	return token, nil
}

// presentToken returns the token as it is now, when the applicant may use it.
// What findToken found may be from before a change or its removal.
func (s *Service) presentToken(ctx context.Context, a *applicant) (*v1alpha1.EnrollmentToken, error) {
	token, err := s.Client.EnrollmentTokens().Get(ctx, a.token.ID, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !a.token.Matches(token.Spec.SecretHash) {
		return nil, unknownToken()
	}
	if err != nil {
		return nil, fmt.Errorf("looking up token %s: %w", a.token.ID, err)
	}
	return token, s.checkToken(a, token)
}

// lookUpToken returns an empty token when there is none: to compare with its
// hash takes as long as with another.
func (s *Service) lookUpToken(ctx context.Context, id string, ask func() bool) (*v1alpha1.EnrollmentToken, error) {
	if o, ok, _ := s.Tokens.GetByKey(id); ok {
		return o.(*v1alpha1.EnrollmentToken), nil
	}
	if !ask() {
		return &v1alpha1.EnrollmentToken{}, nil
	}
	token, err := s.Client.EnrollmentTokens().Get(ctx, id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &v1alpha1.EnrollmentToken{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up token %s: %w", id, err)
	}
	return token, nil
}

// checkToken checks what the token says about who may use it.
func (s *Service) checkToken(a *applicant, token *v1alpha1.EnrollmentToken) error {
	switch {
	case !s.Clock.Now().Before(token.Expiry()):
		return refuse(wire.RefusedToken, "the token expired at %s: create a new one with `fleet-server token create`", token.Expiry().UTC().Format(time.RFC3339))
	case !token.DeletionTimestamp.IsZero():
		return refuse(wire.RefusedToken, "the token was revoked: create a new one with `fleet-server token create`")
	case len(token.Spec.HardwareIDs) > 0 && !slices.Contains(token.Spec.HardwareIDs, a.hardwareID):
		return refuse(wire.RefusedToken, "the token is not for this machine: add what `fleet-agent hardware-id` prints here to spec.hardwareIDs of EnrollmentToken %s", token.Name)
	case token.Spec.Replaces != "" && token.Spec.Replaces != a.device:
		return refuse(wire.RefusedToken, "the token replaces device %q only: enroll with --name %s", token.Spec.Replaces, token.Spec.Replaces)
	}
	return nil
}

// countUse takes one use of the token for this key and name, once. It returns
// the token that was counted.
func (s *Service) countUse(ctx context.Context, a *applicant) (token *v1alpha1.EnrollmentToken, err error) {
	s.counting.Lock()
	defer s.counting.Unlock()
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if token, err = s.presentToken(ctx, a); err != nil {
			return err
		}
		counted, err := use(token, v1alpha1.TokenUse{Device: a.device, KeyFingerprint: a.fingerprint})
		if err != nil || counted {
			return err
		}
		token.Status.LastUsedAt = new(metav1.NewTime(s.Clock.Now()))
		token, err = s.Client.EnrollmentTokens().UpdateStatus(ctx, token, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	return token, asRefusal(err, "counting a use of token "+a.token.ID)
}

// use counts a use in a token's status, and reports whether it was counted
// before.
func use(token *v1alpha1.EnrollmentToken, u v1alpha1.TokenUse) (counted bool, err error) {
	status := &token.Status
	if slices.Contains(status.UsedBy, u) {
		return true, nil
	}
	// An earlier version counted the key, and did not write down the name.
	earlier := slices.Index(status.Devices, u.KeyFingerprint)
	switch {
	case earlier >= 0:
		status.Devices = slices.Delete(status.Devices, earlier, earlier+1)
	case status.Uses >= token.Spec.MaxUses:
		return false, refuse(wire.RefusedToken, "the token is used up (%d of %d uses): create a new one with `fleet-server token create`", status.Uses, token.Spec.MaxUses)
	default:
		status.Uses++
	}
	status.UsedBy = append(status.UsedBy, u)
	if n := len(status.UsedBy) - maxTokenUses; n > 0 {
		status.UsedBy = status.UsedBy[n:]
	}
	return false, nil
}

// newRequest is what an operator approves, or a token in advance.
func newRequest(a *applicant, token *v1alpha1.EnrollmentToken) *v1alpha1.EnrollmentRequest {
	inventory := v1alpha1.Inventory(a.inventory)
	return &v1alpha1.EnrollmentRequest{
		ObjectMeta: metav1.ObjectMeta{Name: a.device},
		Spec: v1alpha1.EnrollmentRequestSpec{
			KeyFingerprint: a.fingerprint, CSR: a.csr, Token: token.Name, Inventory: &inventory,
			Labels: token.Spec.Labels, AllowedLabelKeys: token.Spec.AllowedLabelKeys,
			Replaces: token.Spec.Replaces == a.device, HardwareID: a.hardwareID, Address: a.address,
		},
	}
}

// await records the request of an applicant who needs an operator's approval,
// and says what became of it. Once it is approved, the Device is bound to the
// key, and the applicant does not come here any more.
func (s *Service) await(ctx context.Context, a *applicant, token *v1alpha1.EnrollmentToken) (*wire.EnrollReply, error) {
	r, err := s.Client.EnrollmentRequests().Create(ctx, newRequest(a, token), metav1.CreateOptions{FieldManager: fieldManager})
	switch {
	case err == nil:
		s.Logger.Info("enrollment waits for approval", "device", a.device, "fingerprint", a.fingerprint)
		return pending(), nil
	case apierrors.IsAlreadyExists(err):
		r, err = s.Client.EnrollmentRequests().Get(ctx, a.device, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("recording the request of device %s: %w", a.device, err)
	}
	if err := mayAskBeside(r, a, false, false); err != nil {
		return nil, err
	}
	return pending(), nil
}

// Bind creates the Device that an approved request is about, or binds one to
// its key that an operator created beforehand, or that gets a new machine. Bound
// already is fine. An error is a *wire.Refusal, or one of the API.
func (s *Service) Bind(ctx context.Context, r *v1alpha1.EnrollmentRequest) (*v1alpha1.Device, error) {
	defer s.claims.hold(r.Spec.KeyFingerprint)()
	if s.Tombstones.Has(r.Spec.KeyFingerprint) {
		return nil, refuse(wire.RefusedRevoked, "the key of the request was revoked")
	}
	other, err := s.otherHolder(ctx, r.Spec.KeyFingerprint, r.Name, nil, s.deviceHolds)
	if err != nil {
		return nil, err
	}
	if other != "" {
		return nil, keyTaken(other)
	}
	s.claims.remember(r.Spec.KeyFingerprint, r.Name)
	return s.bind(ctx, r, true)
}

// bind is Bind for who holds the key. Unless an operator let the request in,
// errPrepared says that the Device is one which needs that.
func (s *Service) bind(ctx context.Context, r *v1alpha1.EnrollmentRequest, approved bool) (*v1alpha1.Device, error) {
	enrollment := &v1alpha1.DeviceEnrollment{
		KeyFingerprint:   r.Spec.KeyFingerprint,
		HardwareID:       r.Spec.HardwareID,
		Token:            r.Spec.Token,
		AllowedLabelKeys: r.Spec.AllowedLabelKeys,
		EnrolledAt:       new(metav1.NewTime(s.Clock.Now())),
	}
	d := &v1alpha1.Device{
		ObjectMeta: metav1.ObjectMeta{Name: r.Name, Labels: r.Spec.Labels, Finalizers: []string{v1alpha1.DeviceFinalizer}},
		Spec:       v1alpha1.DeviceSpec{Enrollment: enrollment},
	}
	created, err := s.Client.Devices().Create(ctx, d, metav1.CreateOptions{FieldManager: fieldManager})
	if err == nil {
		s.Logger.Info("device enrolled", "device", r.Name, "token_id", r.Spec.Token, "fingerprint", r.Spec.KeyFingerprint)
		return created, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("creating device %s: %w", r.Name, err)
	}
	return s.adopt(ctx, r, d, approved)
}

// adopt binds the Device that is there. What it decides holds for the version
// that it read: the write fails for every other one, and it decides anew.
func (s *Service) adopt(ctx context.Context, r *v1alpha1.EnrollmentRequest, d *v1alpha1.Device, approved bool) (*v1alpha1.Device, error) {
	var device *v1alpha1.Device
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		if device, err = s.Client.Devices().Get(ctx, r.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if device.HasKey(r.Spec.KeyFingerprint) {
			return nil
		}
		if device.IsOut() {
			return nameOut(r.Name)
		}
		switch {
		case device.Spec.Enrollment == nil && !approved:
			return errPrepared
		case device.Spec.Enrollment == nil:
		case !r.Spec.Replaces:
			return nameTaken(r.Name)
		default:
			if err := s.retire(device); err != nil {
				return err
			}
			delete(device.Labels, v1alpha1.LabelArch) // the new machine may have another
		}
		device.Spec.Enrollment = d.Spec.Enrollment
		if device.Labels == nil {
			device.Labels = map[string]string{}
		}
		maps.Copy(device.Labels, d.Labels)
		device, err = s.Client.Devices().Update(ctx, device, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	return device, asRefusal(err, "binding device "+r.Name)
}

// retire refuses the keys of a machine that another one replaces. It comes
// before the new one is bound: after a power cut in between neither gets in,
// and the new one asks again.
func (s *Service) retire(d *v1alpha1.Device) error {
	e := d.Spec.Enrollment
	err := s.Tombstones.AddAll(tombstone.Entry{
		Device: d.Name, Reason: "replaced", Time: s.Clock.Now().UTC(), Revocation: wire.Revocation(d.Spec.OnRevoke),
	}, e.KeyFingerprint, e.NextKeyFingerprint)
	if err != nil {
		return err
	}
	s.Roster.Drop(d.Name)
	s.ForgetReports(d.Name)
	s.Roster.Reset(d.Name)
	s.Logger.Info("device gets a new machine", "device", d.Name)
	return nil
}

// admit issues the certificate. asked is the request for the name, if any.
func (s *Service) admit(ctx context.Context, a *applicant, device *v1alpha1.Device, asked *v1alpha1.EnrollmentRequest) (*wire.EnrollReply, error) {
	if device.IsOut() {
		return nil, outOfService(a.device)
	}
	s.Roster.Bind(a.device, client.KeysOf(device))
	reply, err := s.issue(a.device, a.publicKey)
	if err != nil {
		return nil, err
	}
	if asked != nil && isMoot(asked, a) {
		options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(asked.UID))}
		if err := s.Client.EnrollmentRequests().Delete(ctx, a.device, options); client.IgnoreNotFound(err) != nil {
			s.Logger.Warn("removing an answered enrollment request", "device", a.device, "error", err)
		}
	}
	return reply, nil
}

// isMoot reports whether a request has no use once the applicant has the name:
// it is the applicant's own, or it asks for what cannot be given any more. One for
// a new machine still can, and what was denied stays so.
func isMoot(r *v1alpha1.EnrollmentRequest, a *applicant) bool {
	return r.Spec.KeyFingerprint == a.fingerprint || !r.Spec.Replaces && !r.IsDenied()
}

// issue signs a certificate. One of a wrong time could be one that never ends.
func (s *Service) issue(device string, publicKey any) (*wire.EnrollReply, error) {
	if err := s.Clock.Sane(); err != nil {
		s.Logger.Error("no certificate is issued", "device", device, "error", err)
		return nil, refuse(wire.RefusedUnavailable, "the server's clock is wrong, so it issues no certificates: its operator has to set it")
	}
	uri, err := wire.DeviceURI(s.Fleet, device)
	if err != nil {
		return nil, err
	}
	chain, err := s.PKI.IssueDevice(device, uri, publicKey, s.Clock.Now())
	if err != nil {
		return nil, err
	}
	if s.Tombstones.Superseded(device, chain[0].NotAfter) {
		s.Logger.Warn("the clock was set back by years: keys that the device had before count again", "device", device)
		if err := s.Tombstones.Lift(device); err != nil {
			return nil, err
		}
	}
	return &wire.EnrollReply{Certificate: string(pki.EncodeChain(chain)), Root: string(s.PKI.RootsPEM())}, nil
}

func refuse(code wire.RefusalCode, format string, args ...any) error {
	return &wire.Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

func unknownToken() error {
	return refuse(wire.RefusedToken, "the token is unknown or was removed: create a new one with `fleet-server token create`")
}

func nameTaken(device string) error {
	return refuse(wire.RefusedNameTaken, "the name %q belongs to another device: choose another with --name, or take its place with the token of `fleet-server device replace %s`", device, device)
}

// nameOut is for another key: its machine was not revoked.
func nameOut(device string) error {
	return refuse(wire.RefusedNameTaken, "the name %q belongs to a device that was revoked or is being deleted: choose another with --name, or have the Device deleted with `kubectl delete fleetdev %s`", device, device)
}

func keyTaken(device string) error {
	return refuse(wire.RefusedNameTaken, "the key of this device is that of %q, and a key has one name: enroll with --name %s, or make a new key with --force", device, device)
}

func outOfService(device string) error {
	return refuse(wire.RefusedRevoked, "the device %s was revoked or is being deleted", device)
}

// asRefusal passes refusals on and wraps everything else.
func asRefusal(err error, doing string) error {
	if _, ok := errors.AsType[*wire.Refusal](err); err == nil || ok {
		return err
	}
	return fmt.Errorf("%s: %w", doing, err)
}
