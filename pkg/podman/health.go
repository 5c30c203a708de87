package podman

import (
	"encoding/json"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const (
	// maxHealth bounds the label with the health check of an image, in bytes: a command is
	// seldom longer than a line.
	maxHealth = 8 << 10
	// Defaults of a health check, which are docker's.
	healthInterval, healthTimeout, healthStart, healthRetries = 30 * time.Second, 30 * time.Second, 5 * time.Second, 3
	// Bounds of what an image may ask for.
	minHealth, maxHealthInterval, maxHealthRetries = time.Second, 24 * time.Hour, 1000
)

// healthCheck is what an image says of its health, in podman's words.
type healthCheck struct {
	// Test begins with NONE, CMD or CMD-SHELL.
	Test              []string
	Interval, Timeout time.Duration
	Retries           int
}

// probe is what the agent makes of it; nil for none, and for one that makes no sense.
func (h *healthCheck) probe() *container.Probe {
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	p := container.Probe{
		Period: bounded(h.Interval, healthInterval), Timeout: bounded(h.Timeout, healthTimeout), Failures: healthRetries,
	}
	if p.Until = min(p.Period, healthStart); h.Retries > 0 {
		p.Failures = min(h.Retries, maxHealthRetries)
	}
	switch h.Test[0] {
	case "CMD":
		p.Exec = h.Test[1:]
	case "CMD-SHELL":
		p.Exec = []string{"/bin/sh", "-c", h.Test[1]}
	default:
		return nil
	}
	if text, err := json.Marshal(p); err != nil || len(text) > maxHealth {
		return nil
	}
	return &p
}

func bounded(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return min(max(d, minHealth), maxHealthInterval)
}

// probeOf reads a label that the agent wrote.
func probeOf(label string) *container.Probe {
	var p container.Probe
	if label == "" || json.Unmarshal([]byte(label), &p) != nil || len(p.Exec) == 0 {
		return nil
	}
	p.Period, p.Timeout = bounded(p.Period, healthInterval), bounded(p.Timeout, healthTimeout)
	p.Until, p.Failures = bounded(p.Until, healthStart), min(max(p.Failures, 1), maxHealthRetries)
	return &p
}
