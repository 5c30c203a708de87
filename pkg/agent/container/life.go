package container

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LabelPreStop is what is done before a container is asked to end, a Hook encoded as JSON: by
// then its score may be gone.
const LabelPreStop = "fleet.nationtech.io/prestop"

// MaxPreStop is the longest value of LabelPreStop in bytes.
const MaxPreStop = 32 << 10

// Role is what a container is for.
type Role int

// Values of Role.
const (
	// RoleService: it is a service.
	RoleService Role = iota
	// RoleInit: it runs to its end before a new set of services.
	RoleInit
	// RoleJob: it is a service that runs on a schedule.
	RoleJob
)

// Hook is one thing that is done in a container. Exactly one of Exec and HTTP is set.
type Hook struct {
	Exec []string   `json:"exec,omitempty"`
	HTTP *HTTPProbe `json:"http,omitempty"`
	// Timeout is how long it may take; 0 for the grace period of its container.
	Timeout time.Duration `json:"-"`
}

// Probe is the hook as an attempt of a probe.
func (h *Hook) Probe() *Probe { return &Probe{Exec: h.Exec, HTTP: h.HTTP, Timeout: h.Timeout} }

// label is the value of LabelPreStop.
func (h *Hook) label() string {
	text, err := json.Marshal(h)
	if err != nil {
		panic(fmt.Sprintf("encoding a hook: %v", err)) // strings and numbers always encode
	}
	return string(text)
}

// ParseHook reads the value of LabelPreStop; nil for none, and for one that makes no sense.
func ParseHook(label string) *Hook {
	var h Hook
	if label == "" || len(label) > MaxPreStop || json.Unmarshal([]byte(label), &h) != nil || (len(h.Exec) > 0) == (h.HTTP != nil) {
		return nil
	}
	return &h
}

// Condition says what a dependency is waited for.
type Condition string

// Values of Condition, in words for people.
const (
	Started   Condition = "started"
	Healthy   Condition = "healthy"
	Completed Condition = "completed"
)

// Dependency is a service that another one of its Deployment waits for before it starts.
type Dependency struct {
	Service   string
	Condition Condition
}

// jobMark stands between the time of a run and the hash of its service.
const jobMark = "."

// JobHash is the hash of the container for a run of a service on a schedule: its time is part
// of it, so that a run that there was is known by its container alone.
func JobHash(at time.Time, hash string) string { return fmt.Sprint(at.Unix()) + jobMark + hash }

// JobTime is the inverse of JobHash, and false for the hash of another container.
func JobTime(hash string) (at time.Time, ok bool) {
	seconds, _, found := strings.Cut(hash, jobMark)
	n, err := strconv.ParseInt(seconds, 10, 64)
	return time.Unix(n, 0).UTC(), found && err == nil
}
