package broker

import (
	"slices"
	"sync"
)

// maxSessions is how many connections one device may have: the one that it
// uses and one that has not noticed yet that it is dead.
const maxSessions = 2

// SessionObserver learns when a device connects and when its last connection
// ends. Its methods must not block.
type SessionObserver interface {
	DeviceConnected(device string)
	DeviceDisconnected(device string)
}

// sessions knows which connections belong to which device.
type sessions struct {
	observer SessionObserver
	// disconnect drops a connection by its id.
	disconnect func(id uint64)

	mu       sync.Mutex // guards the maps
	byDevice map[string][]uint64
	byID     map[uint64]string
}

func newSessions(observer SessionObserver) *sessions {
	return &sessions{observer: observer, byDevice: map[string][]uint64{}, byID: map[uint64]string{}}
}

// add registers a connection and drops the oldest one above maxSessions.
func (s *sessions) add(device string, id uint64) {
	s.mu.Lock()
	ids := append(s.byDevice[device], id)
	s.byDevice[device] = ids
	s.byID[id] = device
	var surplus []uint64
	if n := len(ids) - maxSessions; n > 0 {
		surplus = slices.Clone(ids[:n])
	}
	s.mu.Unlock()
	s.observer.DeviceConnected(device)
	// In a goroutine: add runs inside the authentication of another connection.
	go s.drop(surplus)
}

// remove forgets a connection that ended.
func (s *sessions) remove(id uint64) {
	s.mu.Lock()
	device, known := s.byID[id]
	delete(s.byID, id)
	ids := slices.DeleteFunc(s.byDevice[device], func(i uint64) bool { return i == id })
	last := known && len(ids) == 0
	if last {
		delete(s.byDevice, device)
	} else if known {
		s.byDevice[device] = ids
	}
	s.mu.Unlock()
	if last {
		s.observer.DeviceDisconnected(device)
	}
}

// dropDevice ends every connection of a device.
func (s *sessions) dropDevice(device string) {
	s.mu.Lock()
	ids := slices.Clone(s.byDevice[device])
	s.mu.Unlock()
	s.drop(ids)
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
