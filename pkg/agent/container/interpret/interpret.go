// Package interpret turns scores into containers: one Interpreter for each
// score type that is about containers. To support a further one is to write one
// and add it to Default; planning, applying and removing are the same for all.
package interpret

import (
	"encoding/json"
	"maps"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Interpreter says in terms of containers what a score asks for. It looks at
// nothing but its arguments. Its errors are shown to the operator and usually wrap
// score.ErrInvalid.
type Interpreter func(ref wire.DeploymentRef, data json.RawMessage) (*plan.Workload, error)

// Registry has the interpreters by score type.
type Registry map[string]Interpreter

// Default returns the interpreters of this agent.
func Default() Registry {
	return Registry{score.TypePodmanV0: PodmanV0}
}

// Types lists the score types that have an interpreter, in order.
func (r Registry) Types() []string { return slices.Sorted(maps.Keys(r)) }
