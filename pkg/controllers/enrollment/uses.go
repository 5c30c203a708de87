package enrollment

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ledger counts the uses of tokens in memory. Each use has a number, and becomes
// lasting with the Device or the EnrollmentRequest that bears it: no other write is
// needed to let a device in. The status of the token, which people read, follows.
type ledger struct {
	mu     sync.Mutex // guards what follows
	tokens map[string]*account
	// changed is called without mu when a token was used.
	changed func(token string)
}

// account is what was used of one token.
type account struct {
	uid types.UID
	// last is the highest number in use, free those below it that came to nothing.
	last int
	free []int
	// open has the numbers of uses of which nobody knows yet whether they last.
	open   map[use]int
	usedAt time.Time
}

// use is a key that asks for a name.
type use struct{ device, key string }

// take gives a use of the token its number. The first time it asks known for the
// highest number that objects bear. It returns a *wire.Refusal when the token is used
// up.
func (l *ledger) take(token *v1alpha1.EnrollmentToken, u use, known func() (int, error)) (number int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.tokens[token.Name]
	if a == nil || a.uid != token.UID {
		last, err := known()
		if err != nil {
			return 0, err
		}
		a = &account{uid: token.UID, last: max(last, token.Status.Uses), open: map[use]int{}}
		if l.tokens == nil {
			l.tokens = map[string]*account{}
		}
		l.tokens[token.Name] = a
	}
	number, has := a.open[u]
	switch {
	case has:
		return number, nil
	case len(a.free) > 0:
		number, a.free = a.free[len(a.free)-1], a.free[:len(a.free)-1]
	case a.last >= token.Spec.MaxUses:
		return 0, refuse(wire.RefusedToken, "the token is used up (%d of %d uses): create a new one with `fleet-server token create`", a.last, token.Spec.MaxUses)
	default:
		a.last++
		number = a.last
	}
	a.open[u] = number
	return number, nil
}

// keep makes the number of a use lasting: an object bears it.
func (l *ledger) keep(token string, u use, now time.Time) {
	l.mu.Lock()
	if a := l.tokens[token]; a != nil {
		delete(a.open, u)
		a.usedAt = now
	}
	l.mu.Unlock()
	l.tell(token)
}

// tell has the status of a token written.
func (l *ledger) tell(token string) {
	if l.changed != nil {
		l.changed(token)
	}
}

// giveBack takes the number of a use back that was refused.
func (l *ledger) giveBack(token string, u use) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.tokens[token]
	if a == nil {
		return
	}
	number, has := a.open[u]
	if !has {
		return
	}
	delete(a.open, u)
	if number == a.last {
		a.last--
		return
	}
	a.free = append(a.free, number)
}

// of returns how often a token was used, and when for the last time, as far as this
// process knows.
func (l *ledger) of(token *v1alpha1.EnrollmentToken) (uses int, usedAt time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.tokens[token.Name]; a != nil && a.uid == token.UID {
		return a.last, a.usedAt
	}
	return 0, time.Time{}
}

// forget drops what is known of a token that is gone.
func (l *ledger) forget(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tokens, token)
}

// usesOf returns how often a token was used, and when for the last time, if that was
// since the start of this process. What the process before it did not write into the
// status any more is on the objects.
func (s *Service) usesOf(token *v1alpha1.EnrollmentToken) (uses int, usedAt time.Time, err error) {
	if uses, usedAt = s.uses.of(token); uses == 0 {
		uses, err = s.lastUse(token.Name)
	}
	return uses, usedAt, err
}

// notice has the status of a token written that lacks a use which an object bears.
func (s *Service) notice(token *v1alpha1.EnrollmentToken, number int) {
	if number > token.Status.Uses {
		s.uses.tell(token.Name)
	}
}

// lastUse returns the highest number of a use of a token that an object bears.
func (s *Service) lastUse(token string) (last int, err error) {
	for _, index := range []cache.Indexer{s.Devices, s.Requests} {
		objects, err := index.ByIndex(tokenIndex, token)
		if err != nil {
			return 0, err
		}
		for _, o := range objects {
			last = max(last, numberOf(o))
		}
	}
	return last, nil
}

// numberOf returns the number of the use of a token that an object bears.
func numberOf(o any) int {
	switch o := o.(type) {
	case *v1alpha1.EnrollmentRequest:
		if o != nil {
			return o.Spec.TokenUse
		}
	case *v1alpha1.Device:
		if o != nil && o.Spec.Enrollment != nil {
			return o.Spec.Enrollment.TokenUse
		}
	}
	return 0
}

// Settle makes sure that the status of a token counts a use before the object that
// bears its number is gone.
func (s *Service) Settle(ctx context.Context, token string, number int) error {
	if number == 0 {
		return nil // of an earlier version, which counted in the status alone
	}
	if o, ok, _ := s.Tokens.GetByKey(token); ok && o.(*v1alpha1.EnrollmentToken).Status.Uses >= number {
		return nil
	}
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		t, err := s.Client.EnrollmentTokens().Get(ctx, token, metav1.GetOptions{})
		if err != nil || t.Status.Uses >= number {
			return err
		}
		t.Status.Uses = number
		s.Metrics.Wrote(tokenKind, "use")
		_, err = s.Client.EnrollmentTokens().UpdateStatus(ctx, t, metav1.UpdateOptions{FieldManager: enrollManager})
		return err
	})
	return asRefusal(client.IgnoreNotFound(err), "counting a use of token "+token)
}
