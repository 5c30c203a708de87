package wire

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Kind is the last token of a subject that a device publishes on.
type Kind string

// What a device may send. All but KindHeartbeat are requests whose reply
// subject must be under the device's own inbox prefix.
const (
	// KindSnapshot carries a SnapshotRequest and is answered with a SnapshotReply.
	KindSnapshot Kind = "snapshot"
	// KindBody carries a BodyRequest and is answered with a BodyReply.
	KindBody Kind = "body"
	// KindInfo carries a DeviceInfo and is answered with an Ack.
	KindInfo Kind = "info"
	// KindState carries a DeploymentState and is answered with an Ack.
	KindState Kind = "state"
	// KindHeartbeat carries a Heartbeat; nothing answers it.
	KindHeartbeat Kind = "heartbeat"
	// KindSecret carries a SecretRequest and is answered with a SecretReply.
	KindSecret Kind = "secret"
	// KindRegistry carries a RegistryRequest and is answered with a RegistryReply.
	KindRegistry Kind = "registry"
)

// HeaderSession carries, in every message of a device, the id of its session:
// that of the connection, which the client sends as its name. It is the only
// header allowed.
const HeaderSession = "Fleet-Session"

// ValidSession reports whether s has the form of a session id: 16 to 64
// lower-case hex digits, random.
func ValidSession(s string) bool { return sessionPattern.MatchString(s) }

var sessionPattern = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

// Kinds lists every Kind.
var Kinds = []Kind{KindSnapshot, KindBody, KindInfo, KindState, KindHeartbeat, KindSecret, KindRegistry}

// ErrSubject is wrapped by every error about a subject that has the wrong form.
var ErrSubject = errors.New("malformed subject")

const (
	upPrefix      = "fleet.v1.up."
	downPrefix    = "fleet.v1.down."
	nudgeSuffix   = ".nudge"
	revokedSuffix = ".revoked"
	inboxPrefix   = "_INBOX_"
)

// UpSubject builds the subject that a device publishes a message of this kind
// on. It knows the Kinds only; errors about another wrap ErrSubject.
func UpSubject(device string, kind Kind) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	if !slices.Contains(Kinds, kind) {
		return "", fmt.Errorf("%w: unknown kind %.32q", ErrSubject, kind)
	}
	return upPrefix + device + "." + string(kind), nil
}

// ParseUpSubject is the inverse of UpSubject. It accepts known kinds only.
func ParseUpSubject(subject string) (device string, kind Kind, err error) {
	rest, ok := strings.CutPrefix(subject, upPrefix)
	device, last, found := strings.Cut(rest, ".")
	if !ok || !found || ValidateDevice(device) != nil || !slices.Contains(Kinds, Kind(last)) {
		return "", "", subjectError(subject)
	}
	return device, Kind(last), nil
}

// UpWildcard is the subject on which the server receives one kind from every device.
func UpWildcard(kind Kind) string { return upPrefix + "*." + string(kind) }

// UpAll is the pattern of everything that one device may publish.
func UpAll(device string) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	return upPrefix + device + ".>", nil
}

// DownAll is the pattern of everything that the server may send to one device
// unasked.
func DownAll(device string) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	return downPrefix + device + ".>", nil
}

// NudgeSubject builds the subject of the empty message that asks a device to
// fetch a snapshot.
func NudgeSubject(device string) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	return downPrefix + device + nudgeSuffix, nil
}

// ParseNudgeSubject is the inverse of NudgeSubject.
func ParseNudgeSubject(subject string) (device string, err error) {
	rest, ok := strings.CutPrefix(subject, downPrefix)
	device, found := strings.CutSuffix(rest, nudgeSuffix)
	if !ok || !found || ValidateDevice(device) != nil {
		return "", subjectError(subject)
	}
	return device, nil
}

// RevokedSubject builds the subject of the RevokedNotice that a device gets
// just before its connection is dropped for good.
func RevokedSubject(device string) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	return downPrefix + device + revokedSuffix, nil
}

// InboxPrefix is the first token of the reply subjects of one device. A device
// id has no dot, so one device's prefix never covers another's inbox.
func InboxPrefix(device string) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	return inboxPrefix + device, nil
}

// IsReplyOf reports whether a reply subject lies in the inbox of the device
// and names one subject, not a pattern.
func IsReplyOf(device, reply string) bool {
	prefix, err := InboxPrefix(device)
	if err != nil {
		return false
	}
	rest, ok := strings.CutPrefix(reply, prefix+".")
	return ok && rest != "" && !strings.ContainsAny(rest, "*> \t\r\n")
}

func subjectError(subject string) error {
	const longest = 256
	return fmt.Errorf("%w %.*q", ErrSubject, longest, subject)
}
