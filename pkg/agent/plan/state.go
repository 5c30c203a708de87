package plan

import (
	"cmp"
	"time"
	"unicode/utf8"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Outcome is what is known of a Deployment at the end of a pass.
type Outcome struct {
	Ref wire.DeploymentRef
	// Hash is that of the body which the outcome is about, SecretsDigest that of its
	// Secrets.
	Hash, SecretsDigest string
	// State is what the driver sees.
	State workload.State
	// Err is why the workload could not be applied; Since is when that began.
	Err   error
	Since time.Time
	// Waiting: the workload is not applied yet, and nothing is wrong.
	Waiting bool
}

// Report makes the report about a Deployment. again is when it would read
// differently although nothing happened; zero means never.
func Report(o Outcome) (s wire.DeploymentState, again time.Time) {
	s = wire.DeploymentState{
		DeploymentRef: o.Ref, Hash: o.Hash, SecretsDigest: o.SecretsDigest, Containers: o.State.Parts, LastEventAt: latest(o.Since, o.State.LastEvent).UTC(),
	}
	switch {
	case o.Err != nil:
		s.Phase, s.Error = wire.PhaseFailed, Cut(o.Err.Error(), wire.MaxError)
	case o.Waiting:
		s.Phase = wire.PhasePending
	default:
		s.Phase, s.Error, again = o.State.Phase, Cut(cmp.Or(o.State.Error, o.State.Note), wire.MaxError), o.State.Again
	}
	return s, again
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Cut shortens a text to at most limit bytes without splitting a character,
// and to one line that can be printed.
func Cut(text string, limit int) string {
	text = printable.Squeeze(text)
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}
