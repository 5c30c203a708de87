package roster

import (
	"sync"
	"time"
)

// Outside does what the roster decides. Its methods do not block, and are called
// without the roster's lock.
type Outside interface {
	// Drop ends connections of the bus.
	Drop(connections []uint64)
	// StatusChanged tells that the status of a device has to be written anew.
	StatusChanged(device string)
	// NonceShown tells that the status of a device has to be written anew, which can wait:
	// it only says that the device has the nonce that it was given.
	NonceShown(device string)
	// Leaves tells that a device is revoked, and has to be told and dropped.
	Leaves(device string)
	// Outdated tells that the agent of a device is too old for this server, which
	// refuses it. It is told once an hour.
	Outdated(device string)
	// Stranger reports a valid certificate whose key this store has never seen: the
	// store may come from an older backup. The certificate expires at expires.
	Stranger(device, key string, expires time.Time)
}

// Revoked is the list of keys that are refused for good. It may wait for a disk,
// so the roster asks it without holding its own lock.
type Revoked interface {
	// Has reports whether a key is refused for good.
	Has(key string) bool
	// Renewed reports whether that is so because a renewal put another in its place.
	Renewed(key string) bool
	// Superseded reports whether a certificate of a device that ends at a time is of
	// a key that the device had long ago.
	Superseded(device string, ends time.Time) bool
}

// Config is what a roster needs.
type Config struct {
	// Fleet is the trust domain of the certificates of devices.
	Fleet   string
	Revoked Revoked
	Outside Outside
	// Now is a clock with a monotonic reading; time.Now when nil.
	Now func() time.Time
}

// Roster is the table of devices. It is safe for concurrent use.
type Roster struct {
	fleet   string
	revoked Revoked
	outside Outside
	now     func() time.Time
	started time.Time

	mu      sync.Mutex // guards what follows
	devices map[string]*device
	// connected has the device of each connection.
	connected map[uint64]string
}

// device is the record of one device. Each concern has a file, and a struct of its
// own in the record.
type device struct {
	standing
	connections
	sessions
	presence
	budgets
	reports
	// forgotten: the record is kept for its connections alone, which are about to end.
	forgotten bool
}

// New returns a roster without devices.
func New(c Config) *Roster {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Roster{
		fleet: c.Fleet, revoked: c.Revoked, outside: c.Outside, now: c.Now, started: c.Now(),
		devices: map[string]*device{}, connected: map[uint64]string{},
	}
}

// effects is what a change asks of the outside. The zero value is nothing.
type effects struct {
	drop []uint64
	// status names devices whose status changed.
	status   []string
	shown    string
	leaves   string
	outdated string
}

// changed notes that the status of a device changed.
func (e *effects) changed(name string) { e.status = append(e.status, name) }

func (r *Roster) do(e effects) {
	if len(e.drop) > 0 {
		r.outside.Drop(e.drop)
	}
	for _, name := range e.status {
		r.outside.StatusChanged(name)
	}
	if e.shown != "" {
		r.outside.NonceShown(e.shown)
	}
	if e.leaves != "" {
		r.outside.Leaves(e.leaves)
	}
	if e.outdated != "" {
		r.outside.Outdated(e.outdated)
	}
}

// change makes a change to the record of a device, which it creates when there is
// none, and then has done outside what that asks for.
func (r *Roster) change(name string, f func(d *device, e *effects)) { r.with(name, true, f) }

// update is change for a device that is known: it does nothing for another.
func (r *Roster) update(name string, f func(d *device, e *effects)) (known bool) {
	return r.with(name, false, f)
}

// look is update for what asks nothing of the outside.
func (r *Roster) look(name string, f func(d *device)) (known bool) {
	return r.with(name, false, func(d *device, _ *effects) { f(d) })
}

func (r *Roster) with(name string, create bool, f func(d *device, e *effects)) (known bool) {
	r.locked(func(e *effects) {
		d := r.devices[name]
		if d == nil && create {
			d = &device{}
			r.devices[name] = d
		}
		if known = d != nil; known {
			f(d, e)
		}
	})
	return known
}

// locked calls f with the lock held, and has done outside what that asks for. If f panics,
// which whoever calls survives, everybody else finds the lock free, and what f asked for
// before is done.
func (r *Roster) locked(f func(e *effects)) {
	var e effects
	defer func() { r.do(e) }()
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&e)
}

// Reset drops what is known of the machine that a device was: another takes its
// place, or none. Who may come in stays as it is.
func (r *Roster) Reset(name string) {
	r.update(name, func(d *device, _ *effects) { d.sessions, d.budgets = sessions{}, budgets{} })
}

// Forget drops everything that is known of a device whose object is gone.
func (r *Roster) Forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[name]
	switch {
	case d == nil:
	case len(d.open) == 0:
		delete(r.devices, name)
	default: // until they have ended
		r.devices[name] = &device{connections: d.connections, forgotten: true}
	}
}

// Len is the number of devices that are known.
func (r *Roster) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.devices)
}
