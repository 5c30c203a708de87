package roster

import (
	"slices"
	"time"
)

// show is what becomes of a nonce when the device shows the one with the given
// hash. n is nil for a device that has none. stale: only a copy would show it.
//
// Where nonces begin anew, the one that is shown is where they begin, and is good until
// the device shows the next: that one is given to it later, and until then the device
// asks with what is on its disk.
func (n *Nonce) show(shown, epoch string) (next Nonce, changed, stale bool) {
	switch {
	case n == nil || n.Epoch != epoch:
		return Nonce{Shown: shown, Epoch: epoch}, true, false
	case shown == n.Shown:
		return *n, false, false
	case slices.Contains(n.Issued, shown):
		// From now on the older ones are the sign of a copy.
		return Nonce{Shown: shown, Epoch: n.Epoch, IssuedAt: n.IssuedAt}, true, false
	}
	return *n, false, true
}

// due reports whether the device should have another nonce: it has none, it
// did not get the last one, or the one that it has is old, as is one from before nonces
// began anew.
func (n Nonce) due(now time.Time) bool {
	return n.Shown == "" || len(n.Issued) > 0 || now.Sub(n.IssuedAt) >= rotation
}

// issue adds a nonce that is given to the device.
func (n Nonce) issue(hash string, now time.Time) Nonce {
	n.Issued = append(slices.Clone(n.Issued), hash)
	if surplus := len(n.Issued) - maxIssued; surplus > 0 {
		n.Issued = n.Issued[surplus:]
	}
	n.IssuedAt = now
	return n
}
