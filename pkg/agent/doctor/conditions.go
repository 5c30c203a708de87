package doctor

import (
	"cmp"
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Reasons of the conditions of a Device that follow from findings. All of these
// conditions are good when True.
const (
	// reasonAsNeeded: the condition is True.
	reasonAsNeeded = "AsNeeded"
	// reasonNotKnown: the condition is Unknown.
	reasonNotKnown = "NotKnown"
	// reasonSetupFailed: SetupComplete is False.
	reasonSetupFailed = "SetupFailed"
	// reasonIDsMissing: SubordinateIDsReady is False.
	reasonIDsMissing = "IDsMissing"
	// reasonLingerOff: LingerEnabled is False.
	reasonLingerOff = "LingerOff"
	// reasonControllersMissing: CgroupDelegated is False.
	reasonControllersMissing = "ControllersMissing"
	// reasonLayersCopied: LayersShared is False.
	reasonLayersCopied = "LayersCopied"
	// reasonClockWrong: ClockCorrect is False.
	reasonClockWrong = "ClockWrong"
	// reasonNotCurrent: CertificateCurrent is False.
	reasonNotCurrent = "NotCurrent"
)

// conditionSources say which findings make a condition. The worst one decides.
var conditionSources = []struct {
	typ, reason string
	checks      []string
}{
	{wire.ConditionSetupComplete, reasonSetupFailed, []string{"setup"}},
	{wire.ConditionSubordinateIDsReady, reasonIDsMissing, []string{"subordinate-ids"}},
	{wire.ConditionLingerEnabled, reasonLingerOff, []string{"linger"}},
	{wire.ConditionCgroupDelegated, reasonControllersMissing, []string{"cgroup-cpu", "cgroup-memory", "cgroup-pids"}},
	{wire.ConditionLayersShared, reasonLayersCopied, []string{"storage-driver"}},
	{wire.ConditionClockCorrect, reasonClockWrong, []string{"clock"}},
	{wire.ConditionCertificateCurrent, reasonNotCurrent, []string{"certificate"}},
}

// Conditions are what the agent reports of what it can look at itself.
func Conditions(r Report) []wire.Condition {
	var list []wire.Condition
	for _, source := range conditionSources {
		var about []Finding
		for _, f := range r.Findings {
			if slices.Contains(source.checks, f.Check) {
				about = append(about, f)
			}
		}
		if len(about) > 0 {
			list = append(list, condition(source.typ, source.reason, about))
		}
	}
	return list
}

func condition(typ, bad string, about []Finding) wire.Condition {
	worst := slices.MaxFunc(about, func(a, b Finding) int { return cmp.Compare(a.State.weight(), b.State.weight()) })
	c := wire.Condition{Type: typ, Status: wire.ConditionTrue, Reason: reasonAsNeeded}
	switch worst.State {
	case Failure, Warning:
		c.Status, c.Reason = wire.ConditionFalse, bad
	case Unknown:
		c.Status, c.Reason = wire.ConditionUnknown, reasonNotKnown
	default:
		return c
	}
	for _, f := range about {
		if f.State != worst.State {
			continue
		}
		if c.Message != "" {
			c.Message += "; "
		}
		c.Message += f.Check + ": " + f.Message
	}
	return c
}
