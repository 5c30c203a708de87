package driver

import (
	"errors"
	"fmt"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// taken adds to an error about a port in use who has it, as far as that can be told: what else
// runs on the device is not the agent's.
func (i *instance) taken(service string, err error) error {
	if !errors.Is(err, container.ErrPortInUse) || i.listens == nil {
		return err
	}
	i.mu.Lock()
	planned := i.planned
	i.mu.Unlock()
	for n := range planned {
		s := &planned[n]
		if s.Service != service {
			continue
		}
		for _, p := range slices.Concat(s.Ports, s.Network.Ports) {
			if who := i.listens(p.Host, p.Protocol == container.UDP); who != "" {
				return fmt.Errorf("ports[].hostPort: %d/%s is taken by %s: stop that, or choose another hostPort: %w", p.Host, p.Protocol, who, err)
			}
		}
	}
	return err
}
