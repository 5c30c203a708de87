package doctor

import (
	"errors"
	"fmt"
	"strings"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// settings are the checks of what agent.yaml and an installation may get wrong, which the
// agent says once at its start.
var settings = []func(Facts) []Finding{helperSocket, bindRoots, directories}

// Settings draws the conclusions about what agent.yaml and an installation may get wrong.
func Settings(f Facts) (list []Finding) {
	for _, check := range settings {
		list = append(list, check(f)...)
	}
	return list
}

func helperSocket(f Facts) []Finding {
	if !f.Packaged {
		return nil
	}
	finding := Finding{Check: "helper", Why: "probes through the network, and directories that the agent's unit hides, need the helper of the account that runs containers"}
	switch {
	case f.Helper.Err == nil:
		return []Finding{finding.ok("it answers")}
	case errors.Is(f.Helper.Err, ErrNeedsRoot), errors.Is(f.Helper.Err, errNotAsked):
		return []Finding{finding.unknown(f.Helper.Err.Error())}
	}
	return []Finding{finding.warning(f.Helper.Err.Error()).fix(setupCommand(f))}
}

func bindRoots(f Facts) (list []Finding) {
	finding := Finding{Check: "bind-roots", Why: "a hostPath lies below a directory of bindRoots, which the account that runs containers has to enter"}
	if f.Roots.Err != nil {
		return []Finding{finding.unknown(f.Roots.Err.Error())}
	}
	for _, t := range f.Roots.Value {
		list = append(list, finding.warning(fmt.Sprintf("%s: %s", t.Root, t.Err)).remedy(t.Command))
	}
	if len(list) == 0 {
		list = append(list, finding.ok("every directory of bindRoots can be entered"))
	}
	return list
}

func directories(f Facts) (list []Finding) {
	finding := Finding{Check: "directories", Why: "the agent reads its configuration and keeps the device's key in its state directory, which nobody else may enter"}
	if f.Directories.Err != nil {
		return []Finding{finding.unknown(f.Directories.Err.Error())}
	}
	for _, d := range f.Directories.Value {
		judged := finding.failure(d.Problem)
		if d.Open {
			judged = finding.warning(d.Problem)
		}
		list = append(list, judged.remedy(d.Command))
	}
	if len(list) == 0 {
		list = append(list, finding.ok("the agent can use its configuration and its state directory"))
	}
	return list
}

// privileges say what agent.yaml lets containers have, and what it refuses them now.
func privileges(f Facts) []Finding {
	finding := Finding{Check: "privileges", Why: "bindRoots and allow of agent.yaml bound what containers get of this device, whatever their namespaces allow"}
	if f.Agent.Err == nil {
		for _, c := range f.Agent.Value.Conditions {
			if c.Type == wire.ConditionScoresAllowed && c.Status == wire.ConditionFalse {
				return []Finding{finding.warning(c.Message)}
			}
		}
	}
	if len(f.Privileges) == 0 {
		return []Finding{finding.ok("agent.yaml lets containers have nothing of the device")}
	}
	return []Finding{finding.ok("agent.yaml lets containers have " + strings.Join(f.Privileges, "; "))}
}
