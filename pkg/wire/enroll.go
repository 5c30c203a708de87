package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
)

// Paths of the enrollment listener.
const (
	// PathCA answers GET with the root certificates in PEM, the present one
	// first. While a root is replaced there are two.
	PathCA = "/v1/ca"
	// PathEnroll answers POST of an EnrollRequest with an EnrollReply. The same
	// key and token may be posted again: that is how an agent polls for approval
	// and how it recovers from a power cut.
	PathEnroll = "/v1/enroll"
	// PathRenew answers POST of a RenewRequest with an EnrollReply. The client
	// proves who it is with its present certificate, which may have expired. A
	// device that was revoked learns here what to do with what it runs.
	PathRenew = "/v1/renew"
	// PathTime answers GET with a SignedTime; parameter QueryNonce is echoed.
	PathTime = "/v1/time"
	// QueryNonce is a nonce of 16 to 64 bytes in hex.
	QueryNonce = "nonce"
)

// Longest requests in bytes.
const (
	MaxEnrollRequest = 16 << 10
	MaxRenewRequest  = 4 << 10
)

// EnrollRequest asks for a device certificate.
type EnrollRequest struct {
	// Token is the text form of a Token.
	Token string `json:"token"`
	// Device is the id that the device asks for, an RFC 1123 label.
	Device string `json:"device"`
	// CSR is a PKCS #10 request in PEM. Only its public key is used.
	CSR string `json:"csr"`
	// HardwareID identifies the machine, see Token's allow-list; it is a claim,
	// not a proof.
	HardwareID string `json:"hardwareID,omitempty"`
	// Inventory helps the operator to recognise the device before approval.
	Inventory Inventory `json:"inventory"`
}

// RenewRequest asks for the next certificate of a device.
type RenewRequest struct {
	// CSR is a PKCS #10 request in PEM, for the present key or for a new one.
	// The present key stays good until a new one has been used.
	CSR string `json:"csr"`
}

// EnrollReply answers an EnrollRequest or a RenewRequest. Exactly one of
// Certificate, Pending and Error is set.
type EnrollReply struct {
	// Certificate is the client certificate with its intermediates, in PEM.
	Certificate string `json:"certificate,omitempty"`
	// Root is the root certificates in PEM. At enrollment one of them has the
	// hash in the token.
	Root string `json:"root,omitempty"`
	// Servers is the list of NATS URLs.
	Servers []string `json:"servers,omitempty"`
	// Pending: an operator has to approve the device; post again after
	// RetryAfterSeconds.
	Pending           bool     `json:"pending,omitempty"`
	RetryAfterSeconds int      `json:"retryAfterSeconds,omitempty"`
	Error             *Refusal `json:"error,omitempty"`
	// Revocation says, beside an Error with RefusedRevoked, what the device
	// should do with what it runs.
	Revocation Revocation `json:"revocation,omitempty"`
}

// Revocation is what a revoked device does with what it runs.
type Revocation string

// Values of Revocation.
const (
	// RevocationKeep: workloads go on. It is the default.
	RevocationKeep Revocation = "Keep"
	// RevocationStop: containers are stopped and stay on the disk.
	RevocationStop Revocation = "Stop"
	// RevocationWipe: containers, their volumes, secrets, scores and the device's
	// key are removed.
	RevocationWipe Revocation = "Wipe"
)

// RevokedNotice is the content of a message of KindRevoked.
type RevokedNotice struct {
	Revocation Revocation `json:"revocation"`
}

// SignedTime is the server's clock, for a device whose own cannot be trusted
// and who therefore cannot tell whether the server's certificate is valid.
type SignedTime struct {
	Time time.Time `json:"time"`
	// Signature is an ASN.1 ECDSA signature with the serving certificate's key
	// over SHA-256 of SignedTimePayload.
	Signature []byte `json:"signature"`
}

// SignedTimePayload is what the signature of a SignedTime covers. The nonce
// makes every answer fresh.
func SignedTimePayload(nonce []byte, t time.Time) []byte {
	return []byte("fleet signed time\x00" + hex.EncodeToString(nonce) + "\x00" + t.UTC().Format(time.RFC3339Nano))
}

// ErrToken is wrapped by every error about the form of an enrollment token.
var ErrToken = errors.New("malformed enrollment token")

const (
	tokenPrefix     = "FLT1"
	tokenSecretSize = 20 // bytes: 160 bits
	maxTokenLength  = 256
)

var tokenEncoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// Token is an enrollment token:
// "FLT1.<SHA-256 of the root's public key in hex>.<id>.<secret in base32>".
type Token struct {
	// CAHash is the SHA-256 of the root certificate's SubjectPublicKeyInfo.
	CAHash Digest
	// ID names the EnrollmentToken object; it is no secret.
	ID string
	// Secret is known to its holder only; the server stores its SHA-256.
	Secret [tokenSecretSize]byte
}

// tokenIDSize is the length of a new token's id in bytes: enough for the ids of one
// server to differ.
const tokenIDSize = 5

// NewToken makes a token with a random id and secret for the server whose root key
// has the given hash.
func NewToken(root Digest) Token {
	t := Token{CAHash: root}
	var id [tokenIDSize]byte
	_, _ = rand.Read(id[:]) // never fails, see crypto/rand
	_, _ = rand.Read(t.Secret[:])
	t.ID = strings.ToLower(tokenEncoding.EncodeToString(id[:]))
	return t
}

// Encode returns the text form. It contains the secret: it is shown once to
// the person who asked for the token, and must not be logged.
func (t Token) Encode() string {
	return strings.Join([]string{tokenPrefix, t.CAHash.String(), t.ID, strings.ToLower(tokenEncoding.EncodeToString(t.Secret[:]))}, ".")
}

// String names the token without its secret.
func (t Token) String() string { return "token " + t.ID }

// Format writes String for every verb: %d and %#v would print the secret.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalText returns String, so that a token in a log or a JSON document
// leaks nothing. Encode is the form that ParseToken reads.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// SecretHash is what the server stores: the SHA-256 of the secret in hex. The
// secret has 160 random bits, so a plain hash cannot be searched.
func (t Token) SecretHash() string { return Digest(sha256.Sum256(t.Secret[:])).String() }

// Matches reports in constant time whether the token has the stored hash.
func (t Token) Matches(secretHash string) bool {
	return subtle.ConstantTimeCompare([]byte(t.SecretHash()), []byte(secretHash)) == 1
}

// ParseToken parses the text form. Surrounding white space is dropped, and the byte
// order mark with which editors on Windows begin a file, since tokens are pasted
// and read from files. Errors wrap ErrToken and never repeat the input.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(strings.TrimPrefix(s, "\ufeff"))
	if len(s) > maxTokenLength {
		return Token{}, fmt.Errorf("%w: too long", ErrToken)
	}
	parts := strings.Split(s, ".")
	if len(parts) != 4 || parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("%w: it must have the form %s.<hash>.<id>.<secret>; copy all of it", ErrToken, tokenPrefix)
	}
	var t Token
	if !ValidHash(parts[1]) {
		return Token{}, fmt.Errorf("%w: the second part is not a SHA-256 in hex", ErrToken)
	}
	if _, err := hex.Decode(t.CAHash[:], []byte(parts[1])); err != nil {
		return Token{}, fmt.Errorf("%w: the second part is not a SHA-256 in hex", ErrToken)
	}
	if err := validateName("token", parts[2]); err != nil {
		return Token{}, fmt.Errorf("%w: the third part is not a token id", ErrToken)
	}
	t.ID = parts[2]
	secret, err := tokenEncoding.DecodeString(strings.ToUpper(parts[3]))
	copy(t.Secret[:], secret)
	// The comparison refuses what the decoder overlooks: line breaks within the
	// secret, and letters that only become ASCII in upper case.
	if err != nil || len(secret) != tokenSecretSize || t.Encode() != s {
		return Token{}, fmt.Errorf("%w: the last part is damaged; copy all of it", ErrToken)
	}
	return t, nil
}

const (
	spiffeScheme = "spiffe"
	devicePath   = "/device/"
)

// ErrIdentity is wrapped by every error about a URI that names no device.
var ErrIdentity = errors.New("not a device identity")

// DeviceURI returns the SPIFFE id that a device's certificate carries:
// spiffe://<fleet>/device/<id>.
func DeviceURI(fleet, device string) (*url.URL, error) {
	if err := validateName("fleet", fleet); err != nil {
		return nil, err
	}
	if err := ValidateDevice(device); err != nil {
		return nil, err
	}
	return &url.URL{Scheme: spiffeScheme, Host: fleet, Path: devicePath + device}, nil
}

// ParseDeviceURI is the inverse of DeviceURI. Errors wrap ErrIdentity.
func ParseDeviceURI(u *url.URL) (fleet, device string, err error) {
	device, ok := strings.CutPrefix(u.Path, devicePath)
	if !ok || u.Scheme != spiffeScheme || ValidateDevice(device) != nil || validateName("fleet", u.Host) != nil {
		return "", "", ErrIdentity
	}
	want, err := DeviceURI(u.Host, device)
	if err != nil || *want != *u {
		return "", "", ErrIdentity
	}
	return u.Host, device, nil
}
