package doctor

import (
	"cmp"
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Reasons of the conditions of a Device that follow from findings. All of these
// conditions are good when True.
const (
	// reasonNotKnown: the condition is Unknown.
	reasonNotKnown = "NotKnown"
	// reasonSetupSucceeded: SetupComplete is True.
	reasonSetupSucceeded = "SetupSucceeded"
	// reasonSetupFailed: SetupComplete is False.
	reasonSetupFailed = "SetupFailed"
	// reasonIDsAllocated: SubordinateIDsReady is True.
	reasonIDsAllocated = "IDsAllocated"
	// reasonIDsMissing: SubordinateIDsReady is False.
	reasonIDsMissing = "IDsMissing"
	// reasonLingerOn: LingerEnabled is True.
	reasonLingerOn = "LingerOn"
	// reasonLingerOff: LingerEnabled is False.
	reasonLingerOff = "LingerOff"
	// reasonControllersDelegated: CgroupDelegated is True.
	reasonControllersDelegated = "ControllersDelegated"
	// reasonControllersMissing: CgroupDelegated is False.
	reasonControllersMissing = "ControllersMissing"
	// reasonLayersReused: LayersShared is True.
	reasonLayersReused = "LayersReused"
	// reasonLayersCopied: LayersShared is False.
	reasonLayersCopied = "LayersCopied"
	// reasonClockAgrees: ClockCorrect is True.
	reasonClockAgrees = "ClockAgrees"
	// reasonClockWrong: ClockCorrect is False.
	reasonClockWrong = "ClockWrong"
	// reasonCertificateValid: CertificateCurrent is True.
	reasonCertificateValid = "CertificateValid"
	// reasonNotCurrent: CertificateCurrent is False.
	reasonNotCurrent = "NotCurrent"
	// reasonGroupsInUse: GroupsCurrent is True.
	reasonGroupsInUse = "GroupsInUse"
	// reasonLoginOutdated: GroupsCurrent is False.
	reasonLoginOutdated = "LoginOutdated"
)

// conditionSources say which findings make a condition. The worst one decides.
var conditionSources = []struct {
	typ, good, bad string
	checks         []string
}{
	{wire.ConditionSetupComplete, reasonSetupSucceeded, reasonSetupFailed, []string{"setup"}},
	{wire.ConditionSubordinateIDsReady, reasonIDsAllocated, reasonIDsMissing, []string{"subordinate-ids"}},
	{wire.ConditionLingerEnabled, reasonLingerOn, reasonLingerOff, []string{"linger"}},
	{wire.ConditionCgroupDelegated, reasonControllersDelegated, reasonControllersMissing, []string{"cgroup-cpu", "cgroup-memory", "cgroup-pids"}},
	{wire.ConditionLayersShared, reasonLayersReused, reasonLayersCopied, []string{"storage-driver"}},
	{wire.ConditionClockCorrect, reasonClockAgrees, reasonClockWrong, []string{"clock"}},
	{wire.ConditionCertificateCurrent, reasonCertificateValid, reasonNotCurrent, []string{"certificate"}},
	{wire.ConditionGroupsCurrent, reasonGroupsInUse, reasonLoginOutdated, []string{"groups"}},
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
			list = append(list, condition(source.typ, source.good, source.bad, about))
		}
	}
	return list
}

func condition(typ, good, bad string, about []Finding) wire.Condition {
	worst := slices.MaxFunc(about, func(a, b Finding) int { return cmp.Compare(a.State.weight(), b.State.weight()) })
	c := wire.Condition{Type: typ, Status: wire.ConditionTrue, Reason: good}
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
