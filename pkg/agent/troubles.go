package agent

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// troubles remembers since when a Deployment fails with an error, so that the
// report about it stays the same from one attempt to the next.
type troubles struct {
	mu    sync.Mutex // guards byRef
	byRef map[wire.DeploymentRef]trouble
}

type trouble struct {
	hash, text string
	since      time.Time
	// refused: the device does not allow what the Deployment asks for.
	refused bool
}

func newTroubles() *troubles { return &troubles{byRef: map[wire.DeploymentRef]trouble{}} }

// note returns since when this error has been the one of this body.
func (t *troubles) note(ref wire.DeploymentRef, hash string, err error) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.byRef[ref]
	if ok && old.hash == hash && old.text == err.Error() {
		return old.since
	}
	now := time.Now()
	t.byRef[ref] = trouble{hash: hash, text: err.Error(), since: now, refused: errors.Is(err, workload.ErrNotAllowed)}
	return now
}

// has reports whether the body failed the last time.
func (t *troubles) has(ref wire.DeploymentRef, hash string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.byRef[ref]
	return ok && old.hash == hash
}

func (t *troubles) clear(ref wire.DeploymentRef) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byRef, ref)
}

// refused says what the device does not allow its Deployments, in the order of their names.
func (t *troubles) refused() (list []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, ref := range slices.SortedFunc(maps.Keys(t.byRef), wire.DeploymentRef.Compare) {
		if trouble := t.byRef[ref]; trouble.refused {
			list = append(list, ref.String()+": "+trouble.text)
		}
	}
	return list
}
