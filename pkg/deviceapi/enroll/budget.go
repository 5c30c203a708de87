package enroll

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Budgets in requests a second, and how many may come at once. Each kind of
// request has its own, so that strangers, or a site whose devices all enroll at
// once, keep nobody from renewing a certificate.
const (
	// Anybody may name a token that is not known. It is looked for, since it may
	// have been created a moment ago, but that costs 2 ms of a small gateway.
	strangerRate, strangerBurst = 5, 50
	// Anybody may ask for the root and the time. A device that shows its
	// certificate has a budget of its own for the time, beside that of all.
	publicRate, publicBurst         = 1000, 2000
	hostRate, hostBurst             = 400, 1000 // of that for one host, which may be a site behind NAT
	deviceTimeRate, deviceTimeBurst = 1, 30
	// Requests with a good token that use it for nothing new: a device that waits for
	// approval, or asks twice, or whoever has the token and floods. One token alone
	// cannot use up what there is for all, and all of them keep no other out.
	enrollRate, enrollBurst = 50, 500
	tokenRate, tokenBurst   = 30, 300
	renewRate, renewBurst   = 50, 500
	// A device renews once in months, and tries again after a minute.
	deviceRate, deviceBurst = 0.1, 5
	// Certificates that are good no more are many, of one thief perhaps, or of a
	// site that was revoked and asks what to do now.
	outsiderRate, outsiderBurst = 50, 500
)

const (
	// maxDeciding is how many enrollments are decided at one time. They wait for each
	// other, and a device gives up after 20 s. Eight keep two processors busy, and are a
	// batch for the medium; twice as many let as few devices in, and have people wait who
	// use the API meanwhile.
	maxDeciding = 8
	// decidingPatience is how long another waits for its turn, and is told to come
	// back then: what is decided for a device that has given up is in vain.
	decidingPatience = 5 * time.Second
)

// turn waits for a turn, and reports whether there was one.
func (h *Handler) turn(ctx context.Context) (done func(), ok bool) {
	timer := time.NewTimer(decidingPatience)
	defer timer.Stop()
	select {
	case h.deciding <- struct{}{}:
		return func() { <-h.deciding }, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, false
}

// maxBudgets bounds the memory that budgets of single holders take.
const maxBudgets = 10000

// budgets are the budgets of everybody together and of each holder.
type budgets struct {
	all        *rate.Limiter
	each       rate.Limit
	burst      int
	mu         sync.Mutex // guards holders
	holders    map[string]*rate.Limiter
	maxHolders int
}

func newBudgets(all rate.Limit, allBurst int, each rate.Limit, burst int) *budgets {
	return &budgets{all: rate.NewLimiter(all, allBurst), each: each, burst: burst, holders: map[string]*rate.Limiter{}, maxHolders: maxBudgets}
}

// take takes one request of a holder, whose name was verified.
func (b *budgets) take(holder string) bool { return b.of(holder).Allow() && b.all.Allow() }

// has reports whether there is one request for a holder, and takes none. Whoever has most
// of its own budget left is kept out by nobody else: what others asked for in vain, it did
// not.
func (b *budgets) has(holder string) bool {
	own := b.of(holder).Tokens()
	return own >= 1 && (b.all.Tokens() >= 1 || own >= float64(b.burst)/2)
}

func (b *budgets) of(holder string) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.holders[holder]
	if l == nil {
		if len(b.holders) >= b.maxHolders {
			clear(b.holders) // a moment of generosity
		}
		l = rate.NewLimiter(b.each, b.burst)
		b.holders[holder] = l
	}
	return l
}
