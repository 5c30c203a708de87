package wire

import (
	"errors"
	"fmt"
	"strings"
)

// MaxNameLength is the longest device, namespace or deployment name in bytes:
// the length of an RFC 1123 label.
const MaxNameLength = 63

// Sentinels that a NameError wraps; match them with errors.Is.
var (
	ErrNameEmpty   = errors.New("is empty")
	ErrNameTooLong = fmt.Errorf("is longer than %d bytes", MaxNameLength)
	ErrNameInvalid = errors.New("must be lower-case letters, digits and '-', beginning and ending with a letter or digit")
)

// NameError says which name was refused and why.
type NameError struct {
	// Kind is what the name is for: "device", "namespace" or "deployment".
	Kind string
	// Name is the refused input, cut to MaxNameLength bytes.
	Name string
	// Reason is one of the ErrName sentinels.
	Reason error
}

func (e *NameError) Error() string {
	return fmt.Sprintf("%s name %q %v", e.Kind, e.Name, e.Reason)
}

func (e *NameError) Unwrap() error { return e.Reason }

// DeploymentRef names a Deployment. Its names are RFC 1123 labels.
type DeploymentRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns "<namespace>/<name>".
func (r DeploymentRef) String() string { return r.Namespace + "/" + r.Name }

// Validate returns a *NameError for the first of the two names that is not an
// RFC 1123 label.
func (r DeploymentRef) Validate() error {
	if err := validateName("namespace", r.Namespace); err != nil {
		return err
	}
	return validateName("deployment", r.Name)
}

// Compare orders references by namespace, then by name.
func (r DeploymentRef) Compare(o DeploymentRef) int {
	if c := strings.Compare(r.Namespace, o.Namespace); c != 0 {
		return c
	}
	return strings.Compare(r.Name, o.Name)
}

// ValidateDevice returns a *NameError unless name is an RFC 1123 label.
func ValidateDevice(name string) error { return validateName("device", name) }

// validateName accepts RFC 1123 labels. Such a name has no dot, wildcard or
// white space, so a subject or key that is built from names cannot be read in
// two ways.
func validateName(kind, name string) error {
	switch {
	case name == "":
		return &NameError{kind, name, ErrNameEmpty}
	case len(name) > MaxNameLength:
		return &NameError{kind, name[:MaxNameLength], ErrNameTooLong}
	}
	for i := range len(name) {
		c := name[i]
		inner := i > 0 && i < len(name)-1
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' && inner) {
			return &NameError{kind, name, ErrNameInvalid}
		}
	}
	return nil
}
