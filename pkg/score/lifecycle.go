package score

import "time"

// Bounds of hooks.
const (
	defaultHookTimeout = time.Minute
	maxHookTimeout     = 60 * 60
	// maxHook is how many bytes the words of a preStop hook may have: it is kept with the
	// container.
	maxHook = 4 << 10
)

// Lifecycle has what is done when a container starts and ends, as in a Kubernetes Pod.
type Lifecycle struct {
	// PostStart is done once after each start. The service is not ready before, its probes
	// wait, and when it fails the service is restarted.
	PostStart *Hook `json:"postStart,omitempty"`
	// PreStop is done before the container is asked to end, within its grace period.
	PreStop *Hook `json:"preStop,omitempty"`
}

// Hook is one thing that is done. Exactly one of Exec and HTTPGet is set.
type Hook struct {
	// Exec runs a command in the container; exit code 0 is success.
	Exec *ExecProbe `json:"exec,omitempty"`
	// HTTPGet asks for a page; a status from 200 to 399 is success.
	HTTPGet *HTTPProbe `json:"httpGet,omitempty"`
	// TimeoutSeconds is how long a postStart hook may take; 60 when it is nil.
	TimeoutSeconds *int `json:"timeoutSeconds,omitempty"`
}

// Timeout is how long the hook may take.
func (h *Hook) Timeout() time.Duration { return seconds(h.TimeoutSeconds, defaultHookTimeout) }

// validateLifecycle checks the hooks of a service.
func (s *Service) validateLifecycle(at string) error {
	if s.Lifecycle == nil {
		return nil
	}
	post, pre := s.Lifecycle.PostStart, s.Lifecycle.PreStop
	at += ".lifecycle"
	var found mistakes
	if post == nil && pre == nil {
		found.add(fieldErrorf(at, "postStart or preStop is needed"))
	}
	found.add(post.validate(at + ".postStart"))
	found.add(pre.validate(at + ".preStop"))
	if pre != nil && pre.TimeoutSeconds != nil {
		found.add(fieldErrorf(at+".preStop.timeoutSeconds", "it has terminationGracePeriodSeconds of the service"))
	}
	if pre != nil && pre.size() > maxHook {
		found.add(fieldErrorf(at+".preStop", "its words have %d bytes, at most %d are allowed: put a script into the image", pre.size(), maxHook))
	}
	return found.err()
}

// validate checks a hook, which may be nil.
func (h *Hook) validate(at string) error {
	if h == nil {
		return nil
	}
	timeout := checkWithin(at+".timeoutSeconds", h.TimeoutSeconds, 1, maxHookTimeout)
	switch {
	case (h.Exec != nil) == (h.HTTPGet != nil):
		return all(fieldErrorf(at, "exactly one of exec and httpGet is needed"), timeout)
	case h.Exec != nil:
		return all(h.Exec.validate(at+".exec"), timeout)
	}
	return all(h.HTTPGet.validate(at+".httpGet"), timeout)
}

// size is how many bytes the words of the hook have.
func (h *Hook) size() (total int) {
	if h.Exec != nil {
		for _, word := range h.Exec.Command {
			total += len(word)
		}
	}
	if h.HTTPGet != nil {
		total += len(h.HTTPGet.Path)
		for _, header := range h.HTTPGet.HTTPHeaders {
			total += len(header.Name) + len(header.Value)
		}
	}
	return total
}
