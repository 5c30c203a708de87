package ops

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// TokenSpec is what a token is for.
type TokenSpec struct {
	// TTL is how long it works, Uses how many devices may enroll with it.
	TTL  time.Duration
	Uses int
	// PreApproved lets devices in at once.
	PreApproved bool
	// Labels are those of each device, AllowedLabelKeys the keys that it may set
	// itself.
	Labels           map[string]string
	AllowedLabelKeys []string
	// HardwareIDs are the machines that may use it; empty for any.
	HardwareIDs []string
	// Replaces is the name of the device whose place a new machine takes.
	Replaces string
}

// Check returns the first error of a spec, which begins with the name of the
// flag that sets it.
func (t TokenSpec) Check() error {
	if t.TTL <= 0 {
		return fmt.Errorf("ttl %s: it must be more than 0", t.TTL)
	}
	if t.Uses < 1 {
		return fmt.Errorf("uses %d: it must be at least 1", t.Uses)
	}
	for key, value := range t.Labels {
		label := key + "=" + value
		if errs := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...); len(errs) > 0 {
			return fmt.Errorf("label %q: %s", label, errs[0])
		}
		if v1alpha1.IsServerLabel(key) {
			return fmt.Errorf("label %q: the server sets this label itself", label)
		}
	}
	for _, id := range t.HardwareIDs {
		if !wire.ValidHash(id) {
			return fmt.Errorf("hardware-id %.80q: it must be what `fleet-agent hardware-id` prints", id)
		}
	}
	for _, key := range t.AllowedLabelKeys {
		if errs := validation.IsQualifiedName(key); len(errs) > 0 {
			return fmt.Errorf("allow-label %q: %s", key, errs[0])
		}
		if v1alpha1.IsServerLabel(key) {
			return fmt.Errorf("allow-label %q: the server sets this label itself", key)
		}
	}
	return nil
}

// CreateToken makes a token for the server whose newest root key has the SHA-256
// root. Its secret is in the result alone: the API keeps a hash of it.
func (o *Operator) CreateToken(ctx context.Context, root wire.Digest, t TokenSpec) (wire.Token, error) {
	if err := t.Check(); err != nil {
		return wire.Token{}, err
	}
	token := wire.NewToken(root)
	_, err := o.Client.EnrollmentTokens().Create(ctx, &v1alpha1.EnrollmentToken{
		ObjectMeta: metav1.ObjectMeta{Name: token.ID},
		Spec: v1alpha1.EnrollmentTokenSpec{
			SecretHash: token.SecretHash(), ExpiresAt: new(metav1.NewTime(time.Now().Add(t.TTL))), MaxUses: t.Uses,
			PreApproved: t.PreApproved, Labels: t.Labels, AllowedLabelKeys: t.AllowedLabelKeys,
			HardwareIDs: t.HardwareIDs, Replaces: t.Replaces,
		},
	}, metav1.CreateOptions{FieldManager: o.Manager})
	if err != nil {
		return wire.Token{}, fmt.Errorf("creating the token: %w", err)
	}
	return token, nil
}
