package roster

// Stray reports whether a session is not the device.
func (r *Roster) Stray(name, session string) (is bool) {
	r.look(name, func(d *device) { is = d.isStray(session) })
	return is
}

// Strikes is the budget of messages over budget.
func Strikes() (rate float64, burst int) { return strikes.rate, strikes.burst }

// WhileLocked calls f while the roster is locked, with what asks for a status to be written.
func (r *Roster) WhileLocked(f func(changed func(device string))) {
	r.locked(func(e *effects) { f(e.changed) })
}
