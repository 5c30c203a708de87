package credential

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/clock"
	"fleet.nationtech.io/fleet/pkg/agent/enroll"
	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// enoughRefusals is after how many refusals in a row the server is asked why.
const enoughRefusals = 2

// errReplaced: somebody enrolled the device while the agent ran.
var errReplaced = errors.New("this device was enrolled again: systemctl restart fleet-agent")

// worker does what takes long, for one Run.
type worker struct {
	*Manager
	link    Link
	revoked func(wire.Revocation)
	// renewals, questions and clocks pace what their names say.
	renewals, questions, clocks pace
}

// step does what is due and returns when to look again.
func (w *worker) step(ctx context.Context) time.Duration {
	w.renewals.longest, w.questions.longest, w.clocks.longest = maxRetry, maxAsk, maxAsk
	w.settle()
	w.correctClock(ctx)
	due, again := w.due()
	if due {
		w.renew(ctx)
		_, again = w.due()
	}
	return again
}

// settle writes down what attempts to connect have shown.
func (w *worker) settle() {
	w.mu.Lock()
	connected, use, news := w.connected, w.use, w.spare != nil && w.proof
	w.mu.Unlock()
	if !connected {
		return
	}
	w.cfg.Clock.Proven()
	w.questions.reset()
	w.clocks.reset()
	if !news {
		return
	}
	if err := w.prove(use); err != nil {
		w.cfg.Log.Warn("the identity that works is not written down", "error", err)
		return
	}
	w.mu.Lock()
	w.spare = nil
	w.mu.Unlock()
}

// prove leaves the one identity on the disk that made a connection.
func (w *worker) prove(use *holding) error {
	disk, err := w.disk()
	if err != nil {
		return err
	}
	if disk.Certificate != use.identity.Certificate {
		w.note(errors.New("the server refused the new certificate: the previous one is in use again"))
		w.renewals.failed()
		return w.cfg.Store.RevertIdentity(use.identity)
	}
	w.renewals.reset()
	return w.cfg.Store.ForgetPrevious()
}

// disk returns the identity on the disk, or errReplaced when it is none of those
// that this agent put there.
func (w *worker) disk() (*store.Identity, error) {
	disk, err := w.cfg.Store.Identity()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range []*holding{w.use, w.spare} {
		if h != nil && h.identity.Enrollment == disk.Enrollment && h.identity.Certificate == disk.Certificate {
			return disk, nil
		}
	}
	return nil, errReplaced
}

// correctClock corrects the clock when that is why there is no connection.
func (w *worker) correctClock(ctx context.Context) {
	w.mu.Lock()
	untimely := w.untimely
	w.mu.Unlock()
	if untimely && w.learn(ctx) {
		w.reconnect()
	}
}

// learn asks the server for the time, but not too often: the server's
// certificate may really have expired.
func (w *worker) learn(ctx context.Context) bool {
	if !w.clocks.ready() {
		return false
	}
	w.clocks.failed() // until a connection is made
	use := w.current()
	if err := w.cfg.Server.Learn(ctx, w.cfg.Clock, use.identity.Server, use.roots, use.cert); err != nil {
		w.cfg.Log.Warn("the server's certificate is not valid by this device's clock, and its time cannot be had: set the clock, or look at the server's certificate",
			"now", w.Now(), "error", err)
		return false
	}
	return true
}

func (w *worker) reconnect() {
	if err := w.link.Reconnect(); err != nil {
		w.cfg.Log.Warn("connecting anew failed", "error", err)
	}
}

// due reports whether to ask for a certificate now, or how long to wait before
// it is to be considered again.
func (w *worker) due() (bool, time.Duration) {
	w.mu.Lock()
	refused, untimely, unproven, leaf := w.refusals >= enoughRefusals, w.untimely, w.spare != nil, w.use.cert.Leaf
	w.mu.Unlock()
	wait := look
	consider := func(at time.Time) { wait = min(wait, max(time.Until(at), 0)) }
	if untimely {
		consider(w.clocks.next)
	}
	if refused && w.questions.ready() {
		return true, 0
	} else if refused {
		consider(w.questions.next)
	}
	early := RenewalTime(leaf).Sub(w.Now())
	switch {
	case unproven: // first it has to show whether the last renewal is of use
	case early > 0:
		consider(time.Now().Add(early))
	case w.renewals.ready():
		return true, 0
	default:
		consider(w.renewals.next)
	}
	return false, wait
}

// renew asks for the next certificate and puts it in use.
func (w *worker) renew(ctx context.Context) {
	err := w.ask(ctx)
	if clock.Untimely(err) && w.learn(ctx) {
		if due, _ := w.due(); !due {
			return // it was by a wrong clock only
		}
		err = w.ask(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	w.note(err)
	w.questions.failed() // until a connection is made
	w.renewals.failed()  // until one is made with the new certificate
	if err == nil {
		w.reconnect()
		return
	}
	w.cfg.Log.Warn("the certificate is not renewed", "expires", w.current().cert.Leaf.NotAfter, "error", err)
	if revoked, ok := errors.AsType[*enroll.RevokedError](err); ok {
		w.revoked(revoked.Revocation)
	}
}

func (w *worker) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// ask asks with the certificate in use. Once a new key has proven itself the server
// refuses the old one: while it is not clear which is which, the device was revoked
// only if both are refused.
func (w *worker) ask(ctx context.Context) error {
	err := w.tryRenew(ctx, w.current())
	if _, revoked := errors.AsType[*enroll.RevokedError](err); !revoked {
		return err
	}
	w.mu.Lock()
	unproven := w.spare != nil
	if unproven {
		w.use, w.spare = w.spare, w.use
	}
	w.mu.Unlock()
	if unproven {
		err = w.tryRenew(ctx, w.current())
	}
	return err
}

func (w *worker) tryRenew(ctx context.Context, use *holding) error {
	key, err := w.nextKey(use.identity.Enrollment)
	if err != nil {
		return err
	}
	result, err := w.cfg.Server.Renew(ctx, enroll.Renewal{
		Server: use.identity.Server, Device: use.identity.Device, Present: use.cert, Next: key, Session: w.link.Session(), Root: use.identity.Root, Clock: w.cfg.Clock,
	})
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok && refusal.Code == wire.RefusedKey {
		return errors.Join(err, w.cfg.Store.ForgetRenewalKey()) // the next attempt makes another
	}
	if err != nil {
		return err
	}
	identity := *use.identity
	identity.Key, identity.Certificate, identity.Root = key.Text(), result.Certificate, result.Root
	if len(result.Servers) > 0 {
		identity.Servers = result.Servers
	}
	return w.adopt(use, &identity)
}

// nextKey returns the key to ask with: one that has asked already, or a new one
// that is on the disk before the server sees it.
func (w *worker) nextKey(enrollment string) (keystore.Key, error) {
	if text := w.cfg.Store.RenewalKey(enrollment); text != "" {
		key, err := w.cfg.Keys.Load(text)
		if err == nil {
			return key, nil
		}
		w.cfg.Log.Warn("the key of an earlier attempt to renew is not used", "error", err)
	}
	key, err := w.cfg.Keys.Create()
	if err != nil {
		return nil, err
	}
	return key, w.cfg.Store.SaveRenewalKey(enrollment, key.Text())
}

// adopt puts a new identity in use and keeps the old one until the new one has
// made a connection.
func (w *worker) adopt(old *holding, identity *store.Identity) error {
	next, err := w.hold(identity)
	if err != nil {
		return err
	}
	if _, err := w.disk(); err != nil {
		return fmt.Errorf("replacing the identity: %w", err)
	}
	if err := w.cfg.Store.RenewIdentity(old.identity, identity); err != nil {
		return fmt.Errorf("replacing the identity: %w", err)
	}
	w.mu.Lock()
	w.use, w.spare, w.refusals, w.connected = next, old, 0, false
	w.mu.Unlock()
	w.cfg.Log.Info("the certificate is renewed", "expires", next.cert.Leaf.NotAfter)
	return nil
}
