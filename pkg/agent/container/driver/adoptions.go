package driver

import (
	"maps"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
)

// adoptions remember which volume without a name each of the agent's volumes stands for, by
// the agent's. The runtime has that on a label, in a database that a power cut or a worn card
// may damage; what is in the volumes stays, and nothing would say whose it is.
type adoptions struct {
	keeper runs.Keeper // may be nil

	mu     sync.Mutex // guards byName
	byName map[string]string
}

func newAdoptions(keeper runs.Keeper) *adoptions {
	a := &adoptions{keeper: keeper}
	if keeper != nil {
		keeper.Load(&a.byName)
	}
	if a.byName == nil {
		a.byName = map[string]string{}
	}
	return a
}

// of is the volume that one stands for; empty for none.
func (a *adoptions) of(name string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byName[name]
}

// note notes it. It is on the disk when note returns without an error.
func (a *adoptions) note(name, anonymous string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byName[name] == anonymous {
		return nil
	}
	next := maps.Clone(a.byName)
	next[name] = anonymous
	return a.save(next)
}

// forget forgets a volume that was removed.
func (a *adoptions) forget(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, there := a.byName[name]; !there {
		return nil
	}
	next := maps.Clone(a.byName)
	delete(next, name)
	return a.save(next)
}

func (a *adoptions) save(next map[string]string) error {
	if a.keeper != nil {
		if err := a.keeper.Save(next); err != nil {
			return err
		}
	}
	a.byName = next
	return nil
}
