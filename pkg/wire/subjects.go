package wire

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// HeaderSession carries, in every message of a device, the id of its session:
// that of the connection, which the client sends as its name. It is the only
// header allowed. The id is a secret of the session and the server: the session's
// inbox is named by it. A RenewRequest has it as a header of HTTP: by it the server
// knows the device from a copy, which has the same key.
const HeaderSession = "Fleet-Session"

// ValidSession reports whether s has the form of a session id: 16 to 64
// lower-case hex digits, random.
func ValidSession(s string) bool { return sessionPattern.MatchString(s) }

var sessionPattern = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

// SessionLabel names a session to people, in places that others may read: 12
// hex digits of the SHA-256 of "fleet session", a zero byte, and its id.
func SessionLabel(session string) string {
	const digits = 12
	return Sum([]byte("fleet session\x00" + session)).String()[:digits]
}

// ErrSubject is wrapped by every error about a subject that has the wrong form.
var ErrSubject = errors.New("malformed subject")

const (
	upPrefix    = "fleet.v1.up."
	downPrefix  = "fleet.v1.down."
	inboxPrefix = "_INBOX_"
)

// UpSubject builds the subject that a device publishes a message of this kind
// on. It knows Kinds only; errors about another wrap ErrSubject.
func UpSubject(device string, kind Kind) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	if !slices.Contains(Kinds, kind) {
		return "", fmt.Errorf("%w: unknown kind %.32q", ErrSubject, kind)
	}
	return upPrefix + device + "." + string(kind), nil
}

// ParseUpSubject is the inverse of UpSubject. A kind of message that this version does
// not know is KindUnknown. Errors wrap ErrSubject.
func ParseUpSubject(subject string) (device string, kind Kind, err error) {
	rest, ok := strings.CutPrefix(subject, upPrefix)
	device, last, found := strings.Cut(rest, ".")
	if !ok || !found || ValidateDevice(device) != nil || last == "" || strings.ContainsAny(last, ".*> \t\r\n") {
		return "", "", subjectError(subject)
	}
	if kind = Kind(last); !slices.Contains(Kinds, kind) {
		kind = KindUnknown
	}
	return device, kind, nil
}

// UpAll is the pattern of everything that a device may publish. It is one for all
// kinds, since NATS keeps a tree of patterns for each connection: what the server does
// not know counts against the device's budget.
func UpAll(device string) (string, error) {
	if err := ValidateDevice(device); err != nil {
		return "", err
	}
	return upPrefix + device + ".*", nil
}

// UpWildcard is the subject on which the server receives everything from every device.
const UpWildcard = upPrefix + "*.*"

// DownAll is the pattern of everything that the server may send to one session
// of a device unasked.
func DownAll(device, session string) (string, error) { return down(device, session, ">") }

// DownSubject builds the subject that the server sends a message of this kind to a
// session of a device on. Errors about a kind that only devices send wrap
// ErrSubject.
func DownSubject(device, session string, kind Kind) (string, error) {
	if kind.Verb().Direction != Down {
		return "", fmt.Errorf("%w: unknown kind %.32q", ErrSubject, kind)
	}
	return down(device, session, string(kind))
}

// down builds a subject that one session of a device listens on. All holders of
// a device's key share its name, but not the id of its session: what is sent to a
// session cannot be heard by a copy of the device.
func down(device, session, last string) (string, error) {
	if err := validate(device, session); err != nil {
		return "", err
	}
	return downPrefix + device + "." + session + "." + last, nil
}

// InboxPrefix is the first token of the reply subjects of one session of a device.
// Neither a device's id nor a session's has an underscore or a dot, so the prefix
// of one session never covers the inbox of another. Nobody may listen on a pattern
// that covers those of several sessions.
func InboxPrefix(device, session string) (string, error) {
	if err := validate(device, session); err != nil {
		return "", err
	}
	return inboxPrefix + device + "_" + session, nil
}

// IsReplyOf reports whether a reply subject lies in the inbox of a session of the
// device and names one subject, not a pattern.
func IsReplyOf(device, session, reply string) bool {
	prefix, err := InboxPrefix(device, session)
	if err != nil {
		return false
	}
	rest, ok := strings.CutPrefix(reply, prefix+".")
	return ok && rest != "" && !strings.ContainsAny(rest, "*> \t\r\n")
}

// IsSharedReply reports whether a reply subject lies in the inbox that all sessions
// of a device shared in version 0.1.0. An agent that uses it is too old: a copy of
// the device would hear the answer.
func IsSharedReply(device, reply string) bool {
	return ValidateDevice(device) == nil && strings.HasPrefix(reply, inboxPrefix+device+".")
}

func validate(device, session string) error {
	if err := ValidateDevice(device); err != nil {
		return err
	}
	if !ValidSession(session) {
		return fmt.Errorf("%w: session %.64q", ErrSubject, session)
	}
	return nil
}

func subjectError(subject string) error {
	const longest = 256
	return fmt.Errorf("%w %.*q", ErrSubject, longest, subject)
}
