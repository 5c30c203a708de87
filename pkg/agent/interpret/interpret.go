// Package interpret turns scores into workloads: one Interpreter for each
// score type. To support a new type is to write one and add it to Default;
// planning, applying and removing are the same for all.
package interpret

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Interpreter says in terms of containers what a score asks for. It looks at
// nothing but its arguments. Its errors are shown to the operator.
type Interpreter func(ref wire.DeploymentRef, data json.RawMessage) (*plan.Workload, error)

// Registry has the interpreters by score type.
type Registry map[string]Interpreter

// Default returns the interpreters of this agent.
func Default() Registry {
	return Registry{score.TypePodmanV0: PodmanV0}
}

// Capabilities are those of the score types, in order.
func (r Registry) Capabilities() (can []string) {
	for _, scoreType := range slices.Sorted(maps.Keys(r)) {
		can = append(can, string(wire.CanRun(scoreType)))
	}
	return can
}

// Interpret decodes a body and interprets it. Errors wrap
// score.ErrUnknownType for a type without interpreter, wire.ErrPayload for a
// body that is no score, and usually score.ErrInvalid for bad data.
func (r Registry) Interpret(ref wire.DeploymentRef, body []byte) (*plan.Workload, error) {
	s, err := wire.Decode[wire.Score](body, wire.MaxScoreSize)
	if err != nil {
		return nil, err
	}
	interpreter, ok := r[s.Type]
	if !ok {
		known := slices.Sorted(maps.Keys(r))
		return nil, fmt.Errorf("%w %.63q: this agent knows %s; update it or change score.type", score.ErrUnknownType, s.Type, strings.Join(known, ", "))
	}
	return interpreter(ref, s.Data)
}
