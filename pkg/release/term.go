package release

import "time"

const (
	// validity is how long a signature of the gateway is good. It is renewed when
	// a third of that is over.
	validity = 30 * 24 * time.Hour
	// validityUnbelieved holds while the gateway does not believe its clock. It may
	// then be behind by as long as it was switched off, and must not cut its devices
	// off; after longer, all its certificates have expired as well.
	validityUnbelieved = 365 * 24 * time.Hour
	// slack is by how much clocks may differ.
	slack = time.Hour
)

// Clock tells the time; package clock implements it.
type Clock interface {
	Now() time.Time
	// Sane returns an error while the clock cannot be believed; Now is then the last
	// time that was, and what passed since.
	Sane() error
}

// term is what the metadata of repositories say of the time.
type term struct {
	// date orders the metadata: a device that has some takes none that are older.
	// It is the release's, so that no clock of a gateway is in it.
	date time.Time
	// until is when they expire.
	until time.Time
}

func length(sane bool) time.Duration {
	if sane {
		return validity
	}
	return validityUnbelieved
}

// newTerm is that of a release of a date, after one with the term before.
func newTerm(date time.Time, before term, now time.Time, sane bool) term {
	if date.IsZero() {
		date = now
	}
	if !before.date.Before(date) && !before.ahead(now, sane) {
		date = before.date.Add(time.Second)
	}
	return term{date: date, until: now.Add(length(sane))}
}

// ahead reports whether a clock that was wrong made the date: no device takes
// metadata that are of tomorrow.
func (t term) ahead(now time.Time, sane bool) bool {
	return sane && t.date.After(now.Add(slack))
}

// renewed returns the term to sign next, and whether it is time to.
func (t term) renewed(now time.Time, sane bool) (next term, due bool) {
	left, whole := t.until.Sub(now), length(sane)
	if t.ahead(now, sane) {
		return term{date: now, until: now.Add(whole)}, true
	}
	if left < whole*2/3 || sane && left > whole+slack {
		return term{date: t.date, until: now.Add(whole)}, true
	}
	return t, false
}
