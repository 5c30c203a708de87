package broker

import (
	"maps"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/bus"
)

// maxSessions is how many connections one device may have: the one that it
// uses and one that has not noticed yet that it is dead.
const maxSessions = 2

// connection is a connection of a device.
type connection struct {
	id uint64
	// session is what the client calls itself, a wire.ValidSession.
	session string
	since   time.Time
	proof   bus.Proof
}

// sessions knows which connections belong to which device.
type sessions struct {
	observer bus.Observer
	// disconnect drops a connection by its id.
	disconnect func(id uint64)
	// crowded is called for each connection that was one too many.
	crowded func()

	mu       sync.Mutex // guards the maps
	byDevice map[string][]connection
	byID     map[uint64]string
	// current is the session that goes last when a device has too many.
	current map[string]string
}

func newSessions(observer bus.Observer) *sessions {
	return &sessions{observer: observer, byDevice: map[string][]connection{}, byID: map[uint64]string{}, current: map[string]string{}}
}

// add registers a connection and drops what is above maxSessions: the oldest
// that are not of the current session first, so that a copy of a device cannot
// drive the device out.
func (s *sessions) add(device string, c connection) {
	s.mu.Lock()
	conns := append(s.byDevice[device], c)
	s.byDevice[device] = conns
	s.byID[c.id] = device
	surplus := surplusOf(conns, s.current[device])
	s.mu.Unlock()
	s.observer.DeviceConnected(device)
	if len(surplus) > 0 {
		s.crowded()
	}
	// In a goroutine: add runs inside the authentication of another connection.
	go s.drop(surplus)
}

// surplusOf returns the connections above maxSessions. Those that were dropped
// a moment ago may be among them still: NATS tells of their end later.
func surplusOf(conns []connection, current string) []uint64 {
	n := len(conns) - maxSessions
	if n <= 0 {
		return nil
	}
	byAge := slices.Clone(conns)
	slices.SortStableFunc(byAge, func(a, b connection) int { return isCurrent(a, current) - isCurrent(b, current) })
	return idsOf(byAge[:n], whatever)
}

func isCurrent(c connection, current string) int {
	if c.session == current {
		return 1
	}
	return 0
}

// remove forgets a connection that ended.
func (s *sessions) remove(id uint64) {
	s.mu.Lock()
	device, known := s.byID[id]
	delete(s.byID, id)
	conns := slices.DeleteFunc(s.byDevice[device], func(c connection) bool { return c.id == id })
	last := known && len(conns) == 0
	if last {
		delete(s.byDevice, device)
		delete(s.current, device)
	} else if known {
		s.byDevice[device] = conns
	}
	s.mu.Unlock()
	if last {
		s.observer.DeviceDisconnected(device)
	}
}

// removeEnded forgets the connections that have ended.
func (s *sessions) removeEnded(ended func(id uint64) bool) {
	s.mu.Lock()
	ids := slices.Collect(maps.Keys(s.byID))
	s.mu.Unlock()
	for _, id := range ids {
		if ended(id) {
			s.remove(id)
		}
	}
}

// setCurrent names the current session of a device and drops the connections
// of the one before.
func (s *sessions) setCurrent(device, session string) {
	s.mu.Lock()
	before := s.current[device]
	s.current[device] = session
	old := idsOf(s.byDevice[device], func(c connection) bool { return before != session && c.session == before })
	s.mu.Unlock()
	s.drop(old)
}

// proof returns what the newest connection of a session has shown.
func (s *sessions) proof(device, session string) (bus.Proof, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range slices.Backward(s.byDevice[device]) {
		if c.session == session {
			return c.proof, true
		}
	}
	return bus.Proof{}, false
}

// currentOf is the current session of a device, or empty.
func (s *sessions) currentOf(device string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current[device]
}

// isSurplus reports whether a connection is not of the current session of its
// device, while there is one.
func (s *sessions) isSurplus(device string, id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.current[device]
	if current == "" {
		return false
	}
	i := slices.IndexFunc(s.byDevice[device], func(c connection) bool { return c.id == id })
	return i >= 0 && s.byDevice[device][i].session != current
}

// dropDevice ends every connection of a device.
func (s *sessions) dropDevice(device string) {
	s.drop(s.ids(device, whatever))
}

// ids returns the ids of the connections of a device that match.
func (s *sessions) ids(device string, match func(connection) bool) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return idsOf(s.byDevice[device], match)
}

// whatever matches every connection.
func whatever(connection) bool { return true }

// idsOf returns the ids of the connections that match.
func idsOf(conns []connection, match func(connection) bool) (ids []uint64) {
	for _, c := range conns {
		if match(c) {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// dropExpired ends the connections whose certificate has run out, and returns
// the devices.
func (s *sessions) dropExpired(now time.Time) (devices []string) {
	s.mu.Lock()
	var ids []uint64
	for device, conns := range s.byDevice {
		if expired := idsOf(conns, func(c connection) bool { return now.After(c.proof.Expires) }); len(expired) > 0 {
			ids = append(ids, expired...)
			devices = append(devices, device)
		}
	}
	s.mu.Unlock()
	s.drop(ids)
	return devices
}

// dropUnproven ends the connections that are older than since and not of their
// device's current session, and returns the devices.
func (s *sessions) dropUnproven(since time.Time) (devices []string) {
	s.mu.Lock()
	var ids []uint64
	for device, conns := range s.byDevice {
		current := s.current[device]
		if silent := idsOf(conns, func(c connection) bool { return c.session != current && c.since.Before(since) }); len(silent) > 0 {
			ids = append(ids, silent...)
			devices = append(devices, device)
		}
	}
	s.mu.Unlock()
	s.drop(ids)
	return devices
}

func (s *sessions) drop(ids []uint64) {
	for _, id := range ids {
		s.disconnect(id)
	}
}

// count returns the number of connected devices.
func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byDevice)
}
