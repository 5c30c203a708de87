package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrFingerprint is wrapped by ParseFingerprint.
var ErrFingerprint = errors.New("malformed fingerprint")

// A key's fingerprint, in full, is the SHA-256 of its SubjectPublicKeyInfo in
// hex. People compare its first 128 bits, in groups of four digits: nobody can
// search for another key that has them.
const (
	shownDigits = 32
	groupDigits = 4
	// maxShown bounds what is looked at as a fingerprint that a person typed.
	maxShown = 256
)

// ShowFingerprint returns the form of a fingerprint for people: eight groups of
// four digits. Server and agent show the same. What is no fingerprint is
// returned as it is.
func ShowFingerprint(full string) string {
	if !ValidHash(full) {
		return full
	}
	groups := make([]string, 0, shownDigits/groupDigits)
	for i := 0; i < shownDigits; i += groupDigits {
		groups = append(groups, full[i:i+groupDigits])
	}
	return strings.Join(groups, "-")
}

// ParseFingerprint returns the digits of a fingerprint that a person typed: the
// form for people, with or without what separates its groups, or the full one.
// Fewer digits than people are shown are refused: a key that agrees in them
// could be searched for.
func ParseFingerprint(typed string) (digits string, err error) {
	if len(typed) > maxShown {
		return "", fmt.Errorf("%w: it is too long", ErrFingerprint)
	}
	digits = strings.ToLower(strings.NewReplacer("-", "", ":", "", " ", "").Replace(typed))
	if _, err := hex.DecodeString(digits); err != nil || len(digits) != shownDigits && len(digits) != 2*shownDigits {
		return "", fmt.Errorf("%w: %q is not eight groups of four hexadecimal digits, as `fleet-agent enroll` shows them", ErrFingerprint, typed)
	}
	return digits, nil
}

// MatchFingerprint reports whether digits that ParseFingerprint returned are
// those of a full fingerprint.
func MatchFingerprint(full, digits string) bool {
	return ValidHash(full) && len(digits) >= shownDigits && strings.HasPrefix(full, digits)
}
