package enrollment

import "fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"

// What the tests see of the unexported parts.
const MaxTokenUses = maxTokenUses

// Fingerprint is that of the applicant's key.
func (a *Applicant) Fingerprint() string { return a.fingerprint }

// Use counts a use of a token.
func Use(token *v1alpha1.EnrollmentToken, u v1alpha1.TokenUse) (counted bool, err error) {
	return use(token, u)
}
