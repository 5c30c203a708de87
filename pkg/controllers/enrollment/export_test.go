package enrollment

import (
	"time"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// What the tests see of the unexported parts.

// Fingerprint is that of the applicant's key.
func (a *Applicant) Fingerprint() string { return a.fingerprint }

// Ledger counts the uses of tokens.
type Ledger struct{ ledger }

// Take takes a number for a use. known is the highest that objects bear.
func (l *Ledger) Take(t *v1alpha1.EnrollmentToken, device, key string, known int) (number int, err error) {
	return l.take(t, use{device, key}, func() (int, error) { return known, nil })
}

// Keep makes a use lasting.
func (l *Ledger) Keep(token, device, key string) { l.keep(token, use{device, key}, time.Unix(0, 0)) }

// GiveBack takes the number of a use back.
func (l *Ledger) GiveBack(token, device, key string) { l.giveBack(token, use{device, key}) }

// Of is how often a token was used.
func (l *Ledger) Of(t *v1alpha1.EnrollmentToken) int { uses, _ := l.of(t); return uses }
