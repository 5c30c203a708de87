package roster

// Stray reports whether a session is not the device.
func (r *Roster) Stray(name, session string) (is bool) {
	r.look(name, func(d *device) { is = d.isStray(session) })
	return is
}

// Strikes is the budget of messages over budget.
func Strikes() (rate float64, burst int) { return strikes.rate, strikes.burst }
