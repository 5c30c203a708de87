package wire

import (
	"regexp"
	"slices"
	"strings"
)

// Capability names something that an agent can do. An agent says in each snapshot
// request what it can do, and the server asks nothing else of it.
//
// A name is never taken for another meaning. It is kept when every agent has it.
type Capability string

// scorePrefix begins the capabilities of score types.
const scorePrefix = "score/"

// Capabilities of agents.
const (
	// CanPodmanV0 is that of score type PodmanV0.
	CanPodmanV0 Capability = scorePrefix + "PodmanV0"
	// CanFilesV0 is that of score type FilesV0. Agents have it whose agent.yaml lists fileRoots.
	CanFilesV0 Capability = scorePrefix + "FilesV0"
)

// CapabilityInfo documents a Capability.
type CapabilityInfo struct {
	Capability Capability
	// Since is the day on which the agent learned it: YYYY-MM-DD.
	Since string
	// Means says what the agent does, in words that follow "the agent".
	Means string
}

// Capabilities lists what agents of this version and before can do, the oldest
// first. An agent of another make may have others, such as those of score types
// that it alone runs: see CanRun.
var Capabilities = []CapabilityInfo{
	{CanPodmanV0, "2026-11-28", "runs scores of type PodmanV0"},
	{CanFilesV0, "2026-11-29", "puts files of type FilesV0, where its agent.yaml lists fileRoots"},
}

// MaxCapabilities is how many capabilities an agent may name. Each has at most
// 80 bytes.
const MaxCapabilities = 64

var capabilityPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,16}/[A-Za-z0-9_.-]{1,63}$`)

// CanRun is the capability to run scores of a type.
func CanRun(scoreType string) Capability { return Capability(scorePrefix + scoreType) }

// ParseCapabilities returns what an agent names, in order and each once. What has
// another form than GROUP/NAME, or is too much, is left out. Nil stays nil: an
// agent of version 0.1.0 does not say what it can do.
func ParseCapabilities(names []string) []Capability {
	if names == nil {
		return nil
	}
	can := make([]Capability, 0, min(len(names), MaxCapabilities))
	for _, name := range names {
		if len(can) < MaxCapabilities && capabilityPattern.MatchString(name) {
			can = append(can, Capability(name))
		}
	}
	slices.Sort(can)
	return slices.Compact(can)
}

// Missing returns which of the needed capabilities an agent lacks that said it can
// do so much. One that did not say has none but those of score types: it was sent
// every type, and refuses those that it does not know.
func Missing(can, needed []Capability) (missing []Capability) {
	for _, c := range needed {
		unsaid := can == nil && strings.HasPrefix(string(c), scorePrefix)
		if !unsaid && !slices.Contains(can, c) {
			missing = append(missing, c)
		}
	}
	return missing
}
