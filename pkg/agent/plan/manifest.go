package plan

import (
	"errors"
	"fmt"
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrOlder: a manifest comes before the one that the agent has.
var ErrOlder = errors.New("the manifest is older than the one this device has")

// Accept decides whether a manifest replaces the one whose version is have. A
// manifest of another epoch is accepted: what it omits is held, see Targets.
// It returns false for the version that the agent has already. Errors wrap
// wire.ErrManifest or ErrOlder.
func Accept(have wire.Version, m *wire.Manifest) (bool, error) {
	if err := m.Validate(); err != nil {
		return false, err
	}
	switch {
	case have.IsZero() || !m.SameEpoch(have):
		return true, nil
	case have.Newer(m.Version):
		return false, fmt.Errorf("%w: %v comes before %v", ErrOlder, m.Version, have)
	}
	return m.Newer(have), nil
}

// Verdict says what becomes of a Deployment.
type Verdict int

// Values of Verdict.
const (
	// Apply: the manifest names it.
	Apply Verdict = iota
	// Keep: what runs stays as it is, at the server's wish or for want of a manifest.
	Keep
	// Hold: what runs stays as it is although the manifest omits it, because the
	// omission is not certain. The operator can confirm the epoch.
	Hold
	// Leave: what runs is removed.
	Leave
)

func (v Verdict) String() string { return [...]string{"apply", "keep", "hold", "leave"}[v] }

// Known is what the agent knows of a Deployment that runs on the device.
type Known struct {
	// Named is the version of the last manifest that named it; zero when the
	// agent only sees its containers.
	Named wire.Version
	// Left: it had to leave since then.
	Left bool
}

// Targets gives a verdict for every Deployment that the manifest names or the
// agent knows. m is nil when there is no manifest. confirmed is the epoch that
// the operator confirmed since it last changed.
//
// A Deployment leaves only when a manifest of its own epoch that is newer than
// the last one which named it omits it, or when the operator confirmed the
// manifest's epoch. What has to leave stays so until a manifest names it again.
func Targets(m *wire.Manifest, known map[wire.DeploymentRef]Known, confirmed string) map[wire.DeploymentRef]Verdict {
	targets := make(map[wire.DeploymentRef]Verdict, len(known))
	for ref, k := range known {
		targets[ref] = omitted(m, k, confirmed)
	}
	if m == nil {
		return targets
	}
	for _, e := range m.Entries {
		targets[e.DeploymentRef] = Apply
		if e.Hold {
			targets[e.DeploymentRef] = Keep
		}
	}
	return targets
}

// Recalled gives the verdicts while the last manifest is lost, and m, which came before
// it, is all that the device has: it is applied, and nothing leaves. m may be nil.
func Recalled(m *wire.Manifest, known map[wire.DeploymentRef]Known) map[wire.DeploymentRef]Verdict {
	targets := make(map[wire.DeploymentRef]Verdict, len(known))
	for ref := range known {
		targets[ref] = Keep
	}
	if m == nil {
		return targets
	}
	for _, e := range m.Entries {
		if !e.Hold {
			targets[e.DeploymentRef] = Apply
			continue
		}
		targets[e.DeploymentRef] = Keep
	}
	return targets
}

func omitted(m *wire.Manifest, k Known, confirmed string) Verdict {
	switch {
	case m == nil || !m.Complete:
		return Keep
	case k.Left:
		return Leave
	case m.Newer(k.Named) || m.Epoch == confirmed:
		return Leave
	}
	return Hold
}

// Held lists the Deployments whose verdict is Hold, in order.
func Held(targets map[wire.DeploymentRef]Verdict) []wire.DeploymentRef {
	var held []wire.DeploymentRef
	for ref, v := range targets {
		if v == Hold {
			held = append(held, ref)
		}
	}
	slices.SortFunc(held, wire.DeploymentRef.Compare)
	return held
}
