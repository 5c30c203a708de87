package score

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxSize is the longest canonical form of a score in bytes.
const MaxSize = 256 << 10

// Errors of this package; match them with errors.Is.
var (
	// ErrInvalid is wrapped by every error about the content of a score.
	ErrInvalid = errors.New("invalid score")
	// ErrUnknownType: no validation exists for the type here.
	ErrUnknownType = errors.New("unknown score type")
)

// Document is a score whose data is parsed.
type Document struct {
	typ  string
	data any
	// rendered: what looks like an expression is text.
	rendered bool
}

// Parse parses the data of a score of any type. Errors wrap ErrInvalid.
func Parse(typ string, data []byte) (*Document, error) {
	v, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	return &Document{typ: typ, data: v}, nil
}

// Canonical returns the body of a score: compact JSON with sorted keys, so
// that equal scores have equal bytes and one hash.
func Canonical(typ string, data []byte) (body []byte, err error) {
	d, err := Parse(typ, data)
	if err != nil {
		return nil, err
	}
	return d.Canonical()
}

// Canonical is as the function.
func (d *Document) Canonical() (body []byte, err error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(map[string]any{"type": d.typ, "data": d.data}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	body = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(body) > MaxSize {
		return nil, fieldErrorf("", "%d bytes, at most %d are allowed", len(body), MaxSize)
	}
	return body, nil
}

// Hash names a body: its SHA-256 in lower-case hex.
func Hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// Privilege is what a score needs of the host. The namespace's label
// fleet.nationtech.io/privilege bounds it; the levels are those of the
// Kubernetes Pod Security Standards.
type Privilege int

// Levels of Privilege, in rising order.
const (
	Restricted Privilege = iota
	Baseline
	Privileged
)

var privilegeNames = [...]string{"restricted", "baseline", "privileged"}

func (p Privilege) String() string { return privilegeNames[p] }

// ParsePrivilege is the inverse of String. An empty string is Baseline, the
// default of a namespace without the label.
func ParsePrivilege(s string) (Privilege, error) {
	if s == "" {
		return Baseline, nil
	}
	for i, name := range privilegeNames {
		if s == name {
			return Privilege(i), nil
		}
	}
	return Restricted, fmt.Errorf("unknown privilege %.32q: use restricted, baseline or privileged", s)
}

// Needs is what a score needs of its namespace.
type Needs struct {
	// Privilege is the least that the namespace must allow, and Demands are why.
	Privilege Privilege
	Demands   Demands
	// Secrets and ConfigMaps are the names of those that it uses, ordered.
	Secrets, ConfigMaps []string
}

// Validate checks the data of a score whose type is known here and returns
// what it needs. It returns ErrUnknownType for other types, and errors that
// wrap ErrInvalid, a *FieldError or FieldErrors, for bad data; of what bad data need,
// it returns the Demands that can be read, and their Privilege.
func Validate(typ string, data []byte) (Needs, error) {
	if !IsKnown(typ) { // whose data may be anything
		return Needs{}, unknownType(typ)
	}
	d, err := Parse(typ, data)
	if err != nil {
		return Needs{}, err
	}
	return d.Validate()
}

// Validate is as the function. Of a score with expressions it says what would be wrong on
// each device.
func (d *Document) Validate() (Needs, error) {
	if !IsKnown(d.typ) {
		return Needs{}, unknownType(d.typ)
	}
	data, expressions := d.standIn()
	s, err := types[d.typ].admit(data)
	demands := s.Demands()
	needs := Needs{Privilege: demands.Privilege(), Demands: demands}
	if err := afterExpressions(expressions, err); err != nil {
		return needs, err
	}
	needs.Secrets, needs.ConfigMaps = s.Secrets(), s.ConfigMaps()
	return needs, nil
}

func unknownType(typ string) error { return fmt.Errorf("%w %.63q", ErrUnknownType, typ) }
