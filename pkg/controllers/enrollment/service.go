package enrollment

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
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/reconcile"
	"fleet.nationtech.io/fleet/pkg/roster"
	"fleet.nationtech.io/fleet/pkg/tombstone"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	enrollManager = "fleet-enrollment"
	// pollSeconds is how soon a device asks again while it waits for approval.
	pollSeconds = 5
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

// Service decides who enrolls and who renews, and creates Devices. The API store is
// its only state: each step can be repeated with the same key and token, so a power
// cut on either side at any moment is fixed by asking again.
type Service struct {
	// Fleet is the trust domain of the certificates.
	Fleet  string
	Client *client.Client
	// Tokens is a cache of the EnrollmentTokens.
	Tokens cache.Store
	// Devices and Requests are caches of Devices and EnrollmentRequests, with Indexers.
	Devices, Requests cache.Indexer
	PKI               *pki.PKI
	Roster            *roster.Roster
	Tombstones        *tombstone.List
	// ForgetReports removes what the machine reported that another one replaces.
	ForgetReports func(device string)
	Metrics       *reconcile.Metrics
	Logger        *slog.Logger
	Clock         Clock

	uses     ledger
	reads    reads
	claims   claims
	reserved reserved
}

// Applicant is a request that has the right form.
type Applicant struct {
	// Device is the name that it asks for.
	Device      string
	fingerprint string
	publicKey   any
	csr         string
	token       wire.Token
	hardwareID  string
	address     string
	inventory   wire.Inventory
}

// Enroll answers a request. An error is a *wire.Refusal, or a failure of the
// server itself that the device must not see. used reports whether it used the token
// once more.
func (s *Service) Enroll(ctx context.Context, a *Applicant) (reply *wire.EnrollReply, used bool, err error) {
	// Whoever hangs up must not leave a write behind whose end nobody knows.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), decisionTimeout)
	defer cancel()
	defer s.claims.hold(a.fingerprint)()
	token, err := s.presentToken(ctx, a)
	if err != nil {
		return nil, false, err
	}
	if s.Tombstones.Has(a.fingerprint) {
		return nil, false, refuse(wire.RefusedRevoked, "this device's key was revoked or replaced: it needs a new key, a new token, and another name while there is a Device %s", a.Device)
	}
	device, err := s.knownDevice(ctx, a.Device)
	if err != nil {
		return nil, false, err
	}
	asked, err := s.knownRequest(ctx, a.Device)
	if err != nil {
		return nil, false, err
	}
	taken := device != nil && device.Spec.Enrollment != nil
	switch {
	case taken && device.HasKey(a.fingerprint) && s.Tombstones.Outdated(device):
		return nil, false, refuse(wire.RefusedRevoked, "device %s has had other keys since the backup that this server was restored from: make a new key, and have the device replaced", a.Device)
	case taken && device.HasKey(a.fingerprint):
		s.notice(token, numberOf(device))
		reply, err = s.admit(ctx, a, device, asked)
		return reply, false, err
	case taken && device.IsOut():
		return nil, false, nameOut(a.Device)
	case taken && token.Spec.Replaces != a.Device:
		return nil, false, nameTaken(a.Device)
	}
	vouched := vouches(token, a, device)
	if asked != nil {
		if err := mayAskBeside(asked, a, vouched && token.Spec.Replaces == a.Device, vouched); err != nil {
			return nil, false, err
		}
		if !vouched && asked.Spec.KeyFingerprint == a.fingerprint && asked.Spec.Token == token.Name {
			s.notice(token, numberOf(asked)) // its use was counted when it asked first
			return pending(), false, nil
		}
	}
	return s.enrollNew(ctx, a, token, vouched, asked)
}

// enrollNew lets an applicant ask, or in, who is not known yet. The use of the token
// counts once an object bears its number. When it fails, nobody knows whether there
// is such an object: the number is kept for when the device asks again.
func (s *Service) enrollNew(ctx context.Context, a *Applicant, token *v1alpha1.EnrollmentToken, vouched bool, asked *v1alpha1.EnrollmentRequest) (reply *wire.EnrollReply, used bool, err error) {
	other, err := s.otherHolder(ctx, a.fingerprint, a.Device, s.deviceHolds, s.requestHolds)
	if err != nil {
		return nil, false, err
	}
	if other != "" {
		return nil, false, keyTaken(other)
	}
	u := use{a.Device, a.fingerprint}
	number, err := s.uses.take(token, u, func() (int, error) { return s.lastUse(token.Name) })
	if err != nil {
		return nil, false, err
	}
	s.claims.remember(a.fingerprint, a.Device)
	device, bears, err := s.record(ctx, newRequest(a, token, number), vouched, token.Spec.Replaces == a.Device)
	_, refused := errors.AsType[*wire.Refusal](err)
	switch {
	case refused, err == nil && bears != number: // the object was there already
		s.uses.giveBack(token.Name, u)
	case err == nil:
		s.uses.keep(token.Name, u, s.Clock.Now())
		used = true
	}
	if err != nil {
		return nil, false, err
	}
	if device == nil {
		return pending(), used, nil
	}
	reply, err = s.admit(ctx, a, device, asked)
	return reply, used, err
}

// record makes the object that lets a device in, or, unless its token vouches for it,
// that an operator approves. It returns the Device, or nil for one that waits, and the
// number of the use that the object bears.
func (s *Service) record(ctx context.Context, r *v1alpha1.EnrollmentRequest, vouched, named bool) (device *v1alpha1.Device, bears int, err error) {
	if vouched {
		device, err = s.bind(ctx, r, named)
		if !errors.Is(err, errPrepared) {
			return device, numberOf(device), err
		}
	}
	waits, err := s.await(ctx, r)
	return nil, numberOf(waits), err
}

// vouches reports whether a token lets an applicant in without an operator. A
// Device that somebody prepared has labels and rights of its own: who gets them is
// for an operator to say, not for a token that anybody may have.
func vouches(token *v1alpha1.EnrollmentToken, a *Applicant, device *v1alpha1.Device) bool {
	return token.Spec.PreApproved && (device == nil || token.Spec.Replaces == a.Device)
}

// mayAskBeside returns why an applicant may not have the name that a request
// asks for already. named says that the applicant's token lets it have this very
// name, vouched that it lets it have any.
func mayAskBeside(r *v1alpha1.EnrollmentRequest, a *Applicant, named, vouched bool) error {
	own := r.Spec.KeyFingerprint == a.fingerprint
	switch {
	case own && r.IsDenied():
		return refuse(wire.RefusedToken, "an operator denied this device")
	case own, named:
		return nil
	case r.IsDenied():
		return refuse(wire.RefusedNameTaken, "an operator denied the name %q to another machine: choose another with --name, or have it opened with `fleet-server device reopen %s`", a.Device, a.Device)
	case vouched:
		return nil
	}
	return refuse(wire.RefusedNameTaken, "another machine waits for approval under the name %q: choose another with --name, or have that one denied with `fleet-server device deny %s` and the name opened with `device reopen`", a.Device, a.Device)
}

func pending() *wire.EnrollReply {
	return &wire.EnrollReply{Pending: true, RetryAfterSeconds: pollSeconds}
}

// Parse checks the form of a request that came with a token from an address, which is
// for people. An error is a *wire.Refusal.
func Parse(req wire.EnrollRequest, token wire.Token, address string) (*Applicant, error) {
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
	return &Applicant{
		Device:      req.Device,
		fingerprint: pki.Fingerprint(csr.RawSubjectPublicKeyInfo),
		publicKey:   csr.PublicKey,
		csr:         req.CSR,
		token:       token,
		hardwareID:  req.HardwareID,
		address:     address,
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

// FindToken returns the token's object when the secret is right. Whoever does
// not know the secret learns nothing about the token, not even that it exists.
// ask says whether the API may be asked for a token that the cache does not
// have, because it was created a moment ago.
func (s *Service) FindToken(ctx context.Context, shown wire.Token, ask func() bool) (*v1alpha1.EnrollmentToken, error) {
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
// What FindToken found may be from before a change or its removal. Others may have the
// same object.
func (s *Service) presentToken(ctx context.Context, a *Applicant) (*v1alpha1.EnrollmentToken, error) {
	token, err := s.reads.of(ctx, a.token.ID, func(ctx context.Context) (*v1alpha1.EnrollmentToken, error) {
		return s.Client.EnrollmentTokens().Get(ctx, a.token.ID, metav1.GetOptions{})
	})
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
func (s *Service) checkToken(a *Applicant, token *v1alpha1.EnrollmentToken) error {
	switch {
	case !s.Clock.Now().Before(token.Expiry()):
		return refuse(wire.RefusedToken, "the token expired at %s: create a new one with `fleet-server token create`", token.Expiry().UTC().Format(time.RFC3339))
	case !token.DeletionTimestamp.IsZero():
		return refuse(wire.RefusedToken, "the token was revoked: create a new one with `fleet-server token create`")
	case len(token.Spec.HardwareIDs) > 0 && !slices.Contains(token.Spec.HardwareIDs, a.hardwareID):
		return refuse(wire.RefusedToken, "the token is not for this machine: add what `fleet-agent hardware-id` prints here to spec.hardwareIDs of EnrollmentToken %s", token.Name)
	case token.Spec.Replaces != "" && token.Spec.Replaces != a.Device:
		return refuse(wire.RefusedToken, "the token replaces device %q only: enroll with --name %s", token.Spec.Replaces, token.Spec.Replaces)
	}
	return nil
}

// newRequest is what an operator approves, or a token in advance.
func newRequest(a *Applicant, token *v1alpha1.EnrollmentToken, number int) *v1alpha1.EnrollmentRequest {
	inventory := v1alpha1.Inventory(a.inventory)
	// A token of an earlier version may name labels of the server, which a request may not.
	labels, allowed := maps.Clone(token.Spec.Labels), slices.Clone(token.Spec.AllowedLabelKeys)
	maps.DeleteFunc(labels, func(key, _ string) bool { return v1alpha1.IsServerLabel(key) })
	return &v1alpha1.EnrollmentRequest{
		ObjectMeta: metav1.ObjectMeta{Name: a.Device},
		Spec: v1alpha1.EnrollmentRequestSpec{
			KeyFingerprint: a.fingerprint, CSR: a.csr, Token: token.Name, TokenUse: number, Inventory: &inventory,
			Labels: labels, AllowedLabelKeys: slices.DeleteFunc(allowed, v1alpha1.IsServerLabel),
			Replaces: token.Spec.Replaces == a.Device, HardwareID: a.hardwareID, Address: a.address,
		},
	}
}

// await records the request of an applicant who needs an operator's approval, and
// returns the one that there is. Once it
// is approved, the Device is bound to the key, and the applicant does not come here any
// more.
func (s *Service) await(ctx context.Context, r *v1alpha1.EnrollmentRequest) (*v1alpha1.EnrollmentRequest, error) {
	s.Metrics.Wrote(requestKind, "enrollment")
	present, err := s.Client.EnrollmentRequests().Create(ctx, r, metav1.CreateOptions{FieldManager: enrollManager})
	if err == nil {
		s.Logger.Info("enrollment waits for approval", "device", r.Name, "fingerprint", r.Spec.KeyFingerprint)
		return present, nil
	}
	if apierrors.IsAlreadyExists(err) {
		present, err = s.Client.EnrollmentRequests().Get(ctx, r.Name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("recording the request of device %s: %w", r.Name, err)
	}
	return present, mayAskBeside(present, &Applicant{Device: r.Name, fingerprint: r.Spec.KeyFingerprint}, false, false)
}

// Bind creates the Device that an approved request is about, or binds one to
// its key that an operator created beforehand, or that gets a new machine. Bound
// already is fine. An error is a *wire.Refusal, or one of the API.
func (s *Service) Bind(ctx context.Context, r *v1alpha1.EnrollmentRequest) (*v1alpha1.Device, error) {
	defer s.claims.hold(r.Spec.KeyFingerprint)()
	if s.Tombstones.Has(r.Spec.KeyFingerprint) {
		return nil, refuse(wire.RefusedRevoked, "the key of the request was revoked")
	}
	other, err := s.otherHolder(ctx, r.Spec.KeyFingerprint, r.Name, s.deviceHolds)
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
		TokenUse:         r.Spec.TokenUse,
		AllowedLabelKeys: r.Spec.AllowedLabelKeys,
		EnrolledAt:       new(metav1.NewTime(s.Clock.Now())),
	}
	labels := map[string]string{}
	maps.Copy(labels, r.Spec.Labels)
	maps.Copy(labels, v1alpha1.IdentityLabels(r.Name))
	d := &v1alpha1.Device{
		ObjectMeta: metav1.ObjectMeta{Name: r.Name, Labels: labels, Finalizers: []string{v1alpha1.DeviceFinalizer}},
		Spec:       v1alpha1.DeviceSpec{Enrollment: enrollment},
	}
	s.Metrics.Wrote(deviceKind, "enrollment")
	created, err := s.Client.Devices().Create(ctx, d, metav1.CreateOptions{FieldManager: enrollManager})
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
			if err := s.retire(ctx, device); err != nil {
				return err
			}
			delete(device.Labels, v1alpha1.LabelArch) // the new machine may have another
		}
		device.Spec.Enrollment = d.Spec.Enrollment
		if device.Labels == nil {
			device.Labels = map[string]string{}
		}
		maps.Copy(device.Labels, d.Labels)
		s.Metrics.Wrote(deviceKind, "enrollment")
		device, err = s.Client.Devices().Update(ctx, device, metav1.UpdateOptions{FieldManager: enrollManager})
		return err
	})
	return device, asRefusal(err, "binding device "+r.Name)
}

// retire refuses the keys of a machine that another one replaces. It comes
// before the new one is bound: after a power cut in between neither gets in,
// and the new one asks again.
func (s *Service) retire(ctx context.Context, d *v1alpha1.Device) error {
	e := d.Spec.Enrollment
	if err := s.Settle(ctx, e.Token, e.TokenUse); err != nil {
		return err
	}
	err := s.Tombstones.AddAll(tombstone.Entry{
		Device: d.Name, Reason: "replaced", Time: s.Clock.Now().UTC(), Revocation: wire.Revocation(d.Spec.OnRevoke),
	}, e.KeyFingerprint, e.NextKeyFingerprint)
	if err != nil {
		return err
	}
	s.Roster.Reset(d.Name) // first, so that no report that is on its way counts
	s.Roster.Drop(d.Name)
	s.ForgetReports(d.Name)
	s.Logger.Info("device gets a new machine", "device", d.Name)
	return nil
}

// admit issues the certificate. asked is the request for the name, if any.
func (s *Service) admit(ctx context.Context, a *Applicant, device *v1alpha1.Device, asked *v1alpha1.EnrollmentRequest) (*wire.EnrollReply, error) {
	if device.IsOut() {
		return nil, outOfService(a.Device)
	}
	s.Roster.Bind(a.Device, client.KeysOf(device))
	reply, err := s.issue(a.Device, a.publicKey)
	if err != nil {
		return nil, err
	}
	if asked != nil && isMoot(asked, a) {
		if err := s.Settle(ctx, asked.Spec.Token, asked.Spec.TokenUse); err != nil {
			return nil, err
		}
		options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(asked.UID))}
		s.Metrics.Wrote(requestKind, "over")
		if err := s.Client.EnrollmentRequests().Delete(ctx, a.Device, options); client.IgnoreNotFound(err) != nil {
			s.Logger.Warn("removing an answered enrollment request", "device", a.Device, "error", err)
		}
	}
	return reply, nil
}

// isMoot reports whether a request has no use once the applicant has the name:
// it is the applicant's own, or it asks for what cannot be given any more. One for
// a new machine still can, and what was denied stays so.
func isMoot(r *v1alpha1.EnrollmentRequest, a *Applicant) bool {
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
