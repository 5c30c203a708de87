package agent

import (
	"fmt"

	"fleet.nationtech.io/fleet/pkg/agent/facts"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// level says how full a file system is.
type level int

const (
	levelFine level = iota
	levelNearlyFull
	levelFull
)

// levels say what share of a file system is free when a level begins, and when it is
// over: a share at a limit must not make the condition come and go.
var levels = map[level]struct {
	begins, ends float64
	reason       string
}{
	levelNearlyFull: {0.10, 0.12, reasonNearlyFull},
	levelFull:       {0.02, 0.03, reasonFull},
}

// checkDisk sets the condition DiskPressure.
func (w *watcher) checkDisk() {
	worst, message := levelFine, ""
	for _, s := range w.fileSystems() {
		if l := levelOf(s, w.pressure); l > worst {
			worst, message = l, pressureOf(s, l)
		}
	}
	w.pressure = worst
	if worst == levelFine {
		w.conditions.set(wire.ConditionDiskPressure, wire.ConditionFalse, reasonSpaceLeft, "")
		return
	}
	w.conditions.set(wire.ConditionDiskPressure, wire.ConditionTrue, levels[worst].reason, message)
}

// fileSystems are those that workloads fill, and that of the state.
func (w *watcher) fileSystems() (stores []workload.Store) {
	for _, d := range w.drivers {
		stores = append(stores, d.stores...)
	}
	if d, err := facts.Disk(w.store.Dir()); err == nil {
		own := workload.Store{Name: w.store.Dir(), Size: d.Size, Used: d.Used}
		if whole, err := w.store.Reserve(); err != nil {
			w.log.Warn("a full disk will keep the agent from writing its state", "error", err)
		} else if !whole { // whatever the figures say, as with a quota
			own.Used = own.Size
		}
		stores = append(stores, own)
	}
	return stores
}

// levelOf is how full a file system is; before is the level of the look before.
func levelOf(s workload.Store, before level) level {
	if s.Size == 0 {
		return levelFine
	}
	free := float64(s.Size-min(s.Used, s.Size)) / float64(s.Size)
	for _, l := range []level{levelFull, levelNearlyFull} {
		limit := levels[l].begins
		if before >= l {
			limit = levels[l].ends
		}
		if free < limit {
			return l
		}
	}
	return levelFine
}

// pressureOf says how little is left. The figures are those of the limit: what is free
// changes with every look.
func pressureOf(s workload.Store, l level) string {
	share := levels[l].ends
	text := fmt.Sprintf("less than %.0f %% (%s of %s) of the file system of %s is free",
		100*share, facts.Bytes(uint64(share*float64(s.Size))), facts.Bytes(s.Size), s.Name)
	if l == levelFull {
		text += ": nothing is pulled, and the agent writes its state into space that it keeps for that"
	}
	return text
}
