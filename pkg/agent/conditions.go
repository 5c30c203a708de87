package agent

import (
	"maps"
	"slices"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Reasons of the conditions that the agent reports. DiskPressure and ManifestHeld
// are good when False. Whether drivers can work they say in terms of their own.
const (
	// reasonSpaceLeft: DiskPressure is False.
	reasonSpaceLeft = "SpaceLeft"
	// reasonNearlyFull: DiskPressure is True.
	reasonNearlyFull = "NearlyFull"
	// reasonFull: DiskPressure is True, and writes fail or are about to.
	reasonFull = "Full"

	// reasonNothingMissing: WouldSurviveReboot is True.
	reasonNothingMissing = "NothingMissing"
	// reasonMissing: WouldSurviveReboot is False; the message names what is missing.
	reasonMissing = "Missing"
	// reasonNotLookedAt: WouldSurviveReboot is Unknown; a driver cannot work.
	reasonNotLookedAt = "NotLookedAt"

	// reasonNothingRefused: ScoresAllowed is True.
	reasonNothingRefused = "NothingRefused"
	// reasonNotAllowed: ScoresAllowed is False; the message names Deployments and fields.
	reasonNotAllowed = "NotAllowed"

	// reasonCurrent: ManifestHeld is False.
	reasonCurrent = "ManifestCurrent"
	// reasonOmissionsHeld: ManifestHeld is True; Deployments stay until the
	// operator runs `fleet-agent confirm-epoch`.
	reasonOmissionsHeld = "OmissionsHeld"
	// reasonOlderManifest: ManifestHeld is True; the server answered with a
	// manifest that comes before the device's.
	reasonOlderManifest = "OlderManifest"
	// reasonInvalidManifest: ManifestHeld is True; what the server answered
	// cannot be used.
	reasonInvalidManifest = "InvalidManifest"
	// reasonDamagedManifest: ManifestHeld is True; the last manifest was damaged on the
	// device's disk, and the server has not sent it again yet.
	reasonDamagedManifest = "DamagedManifest"
)

// maxMessage bounds the message of a condition in bytes.
const maxMessage = 512

// conditions are what is said of the device as a whole.
type conditions struct {
	changed func()

	mu     sync.Mutex // guards byType
	byType map[string]wire.Condition
}

func newConditions(changed func()) *conditions {
	return &conditions{changed: changed, byType: map[string]wire.Condition{}}
}

func (c *conditions) set(typ string, status wire.ConditionStatus, reason, message string) {
	next := wire.Condition{Type: typ, Status: status, Reason: reason, Message: plan.Cut(message, maxMessage)}
	c.mu.Lock()
	same := c.byType[typ] == next
	c.byType[typ] = next
	c.mu.Unlock()
	if !same {
		c.changed()
	}
}

// ready shows whether a driver can work; err is why not, lacks what it cannot do although
// it works.
func (c *conditions) ready(about workload.Condition, lacks string, err error) {
	switch {
	case about.Type == "":
	case err != nil:
		c.set(about.Type, wire.ConditionFalse, about.Unavailable, err.Error())
	default:
		c.set(about.Type, wire.ConditionTrue, about.Ready, lacks)
	}
}

// list returns the conditions ordered by type.
func (c *conditions) list() []wire.Condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []wire.Condition
	for _, typ := range slices.Sorted(maps.Keys(c.byType)) {
		list = append(list, c.byType[typ])
	}
	return list
}
