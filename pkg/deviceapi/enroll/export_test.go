package enroll

import (
	"time"

	"golang.org/x/time/rate"
)

// What the tests see of the unexported parts.
const (
	PublicBurst = publicBurst
	HostBurst   = hostBurst
	RenewBurst  = renewBurst
	MaxDeciding = maxDeciding
)

// SpendStrangers uses up for good how often strangers may be wrong about a token.
func (h *Handler) SpendStrangers() { spend(h.strangers) }

// SpendPublic uses up for good what anybody may ask for.
func (h *Handler) SpendPublic() { spend(h.public.all) }

// SpendAllButRenewals uses up for good whatever everybody together may do, but
// for the renewals of devices that may come in.
func (h *Handler) SpendAllButRenewals() {
	for _, l := range []*rate.Limiter{h.strangers, h.public.all, h.lines, h.knownLines, h.enrollments.all, h.times.all, h.outsiders.all} {
		spend(l)
	}
}

// SpendRenewals uses up for good what all devices together may renew.
func (h *Handler) SpendRenewals() { spend(h.renewals.all) }

// LeaveOneRequest leaves a token, for good, one request that is no new use of it.
func (h *Handler) LeaveOneRequest(token string) {
	l := h.enrollments.of(token)
	l.SetLimit(0)
	l.AllowN(time.Now(), l.Burst()-1)
}

// spend leaves nothing, and nothing comes after.
func spend(l *rate.Limiter) {
	l.SetLimit(0)
	for l.Allow() {
	}
}
