package agent

import (
	"encoding/json"
	"log/slog"
	"sync"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// informer makes what the device says of itself.
type informer struct {
	cfg        Config
	conditions *conditions
	reporter   *reporter
	log        *slog.Logger

	mu sync.Mutex // guards the order of refreshes
}

// refresh hands what the device is now to the reporter, which sends it when it
// differs from what was sent before.
func (i *informer) refresh() {
	i.mu.Lock()
	defer i.mu.Unlock()
	inventory := i.cfg.Facts()
	inventory.AgentVersion = i.cfg.Version
	raw, err := json.Marshal(wire.DeviceInfo{Labels: i.cfg.Labels, Inventory: inventory, Conditions: i.conditions.list()})
	if err != nil {
		i.log.Error("encoding the device info failed", "error", err)
		return
	}
	i.reporter.setInfo(raw)
}
