package enrollment

import (
	"sync"
	"time"
)

const (
	// reservedTime is how long a next key stays for the device that asked for it: it
	// connects with it in seconds.
	reservedTime = 10 * time.Minute
	// maxReserved bounds what is remembered.
	maxReserved = 10000
)

// reserved are the next keys that sessions asked for which were taken for their
// device. A copy of the device, which has its key, could else have each of them
// refused before the device connects with it.
type reserved struct {
	mu       sync.Mutex // guards byDevice
	byDevice map[string]reservation
}

type reservation struct {
	key   string
	until time.Time
}

// set reserves a key for a device.
func (r *reserved) set(device, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byDevice == nil || len(r.byDevice) >= maxReserved {
		r.byDevice = map[string]reservation{} // a moment of generosity
	}
	r.byDevice[device] = reservation{key, time.Now().Add(reservedTime)}
}

// has reports whether a key is reserved for a device.
func (r *reserved) has(device, key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.byDevice[device]
	return found.key == key && time.Now().Before(found.until)
}
