package score

import (
	"fmt"
	"iter"
	"time"
)

// Limits of init containers and their default.
const (
	maxInitContainers  = 16
	defaultInitTimeout = 5 * time.Minute
	maxTimeout         = 24 * 60 * 60
)

// containers are all of the score, in the order in which they are begun.
func (p *PodmanV0) containers() []*Service {
	list := make([]*Service, 0, len(p.InitContainers)+len(p.Services))
	for i := range p.InitContainers {
		list = append(list, &p.InitContainers[i])
	}
	for i := range p.Services {
		list = append(list, &p.Services[i])
	}
	return list
}

// All yields all containers of the score in the order in which they are begun, and whether
// each is an init container.
func (p *PodmanV0) All() iter.Seq2[*Service, bool] {
	return func(yield func(*Service, bool) bool) {
		for i, s := range p.containers() {
			if !yield(s, i < len(p.InitContainers)) {
				return
			}
		}
	}
}

// validateInitContainers checks the init containers. taken are the names of services.
func (p *PodmanV0) validateInitContainers(taken map[string]bool) error {
	if len(p.InitContainers) > maxInitContainers {
		return fieldErrorf("initContainers", "%d init containers, at most %d are allowed", len(p.InitContainers), maxInitContainers)
	}
	var found mistakes
	for i := range p.InitContainers {
		s, at := &p.InitContainers[i], index("initContainers", i)
		found.add(s.validate(at))
		found.add(s.refuseUseless(at))
		found.add(takeName(taken, at+".name", s.Name))
	}
	return found.err()
}

// refuseUseless refuses the fields of a service that mean nothing in an init container.
func (s *Service) refuseUseless(at string) error {
	return refuseGiven(
		at, "an init container has none",
		givenField{"ports", len(s.Ports) > 0},
		givenField{"restart", s.Restart != ""},
		givenField{"dependsOn", len(s.DependsOn) > 0},
		givenField{"schedule", s.Schedule != nil},
		givenField{"lifecycle", s.Lifecycle != nil},
		givenField{"startupProbe", s.StartupProbe != nil},
		givenField{"livenessProbe", s.LivenessProbe != nil},
		givenField{"readinessProbe", s.ReadinessProbe != nil},
	)
}

// validateTimeout checks a timeout that only what is to end may have.
func (s *Service) validateTimeout(at string) error {
	return checkWithin(at+".timeoutSeconds", s.TimeoutSeconds, 1, maxTimeout)
}

// refuseTimeout refuses a timeout of a service that runs for ever.
func (s *Service) refuseTimeout(at string) error {
	if s.TimeoutSeconds != nil && s.Schedule == nil {
		return fieldErrorf(at+".timeoutSeconds", "only init containers and services with a schedule have one")
	}
	return nil
}

// InitTimeout is how long an init container may run.
func (s *Service) InitTimeout() time.Duration { return seconds(s.TimeoutSeconds, defaultInitTimeout) }

// Timeout is how long a run of a service with a schedule may take; 0 for any time.
func (s *Service) Timeout() time.Duration { return seconds(s.TimeoutSeconds, 0) }

// InitHash names the content of all init containers; empty for none. A service starts after
// they ran, so that their content is part of what it is.
func (p *PodmanV0) InitHash() string {
	if len(p.InitContainers) == 0 {
		return ""
	}
	var all string
	for i := range p.InitContainers {
		all += fmt.Sprintf("%s %s\n", p.InitContainers[i].Name, p.InitContainers[i].Hash())
	}
	return Hash([]byte(all))
}
