package wire

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Limits of what a manifest may carry.
const (
	// MaxEntries is the most Deployments on one device. A manifest with as many
	// stays under the bus's largest message.
	MaxEntries = 512
	// MaxScoreSize is the longest body (canonical JSON of a score) in bytes.
	MaxScoreSize = 256 << 10
	// MaxScoreType is the longest score type name in bytes.
	MaxScoreType = 63
)

// ErrManifest is wrapped by every error about a manifest that must not be used.
var ErrManifest = errors.New("invalid manifest")

// Version orders the manifests of one device.
//
// Term and Seq order manifests within one epoch only. An agent removes a
// workload only for a complete manifest of its own epoch with a higher
// (Term, Seq).
type Version struct {
	// Epoch identifies the API store. It changes when a backup is restored.
	Epoch string `json:"epoch"`
	// Term rises at each start of the controllers, by compare-and-swap in the
	// API store.
	Term uint64 `json:"term"`
	// Seq rises when the content of this device's manifest changes within a term.
	Seq uint64 `json:"seq"`
}

// IsZero reports whether v is the version of an agent that has no manifest.
func (v Version) IsZero() bool { return v == Version{} }

// SameEpoch reports whether v and o come from the same API store.
func (v Version) SameEpoch(o Version) bool { return v.Epoch == o.Epoch }

// Newer reports whether v is of o's epoch and comes after o.
func (v Version) Newer(o Version) bool {
	return v.SameEpoch(o) && cmp.Or(cmp.Compare(v.Term, o.Term), cmp.Compare(v.Seq, o.Seq)) > 0
}

// String returns "<epoch>/<term>/<seq>".
func (v Version) String() string { return fmt.Sprintf("%s/%d/%d", v.Epoch, v.Term, v.Seq) }

// VolumeRetention says what becomes of the named volumes of a Deployment when
// it leaves a device.
type VolumeRetention string

// Values of VolumeRetention.
const (
	// RetainVolumes keeps named volumes; it is the default.
	RetainVolumes VolumeRetention = "Retain"
	// DeleteVolumes removes named volumes together with the containers.
	DeleteVolumes VolumeRetention = "Delete"
)

// Entry is one Deployment in the manifest of a device. The bucket
// desired-state holds the same form.
type Entry struct {
	DeploymentRef
	// Type is the score type, for example "PodmanV0". Empty when Hold is set.
	Type string `json:"type,omitempty"`
	// Hash is the SHA-256 of the body in lower-case hex. Empty when Hold is set.
	Hash string `json:"hash,omitempty"`
	// Revision is the hash of the template that the body was rendered from; empty for a body
	// that is the same on each device.
	Revision string `json:"revision,omitempty"`
	// Size is the length of the body in bytes.
	Size int `json:"size,omitempty"`
	// SecretsDigest changes with the content of the Secrets that the score names;
	// empty when it names none. It is keyed: it tells nothing about the content.
	SecretsDigest string `json:"secretsDigest,omitempty"`
	// VolumeRetention is RetainVolumes when empty.
	VolumeRetention VolumeRetention `json:"volumeRetention,omitempty"`
	// Hold asks the device to keep what it runs for this Deployment as it is:
	// the server has no valid score for it at present.
	Hold bool `json:"hold,omitempty"`
}

// Manifest is everything that one device should run. A complete manifest
// without entries is valid: nothing should run.
type Manifest struct {
	Version
	// Complete is true in every manifest that a server issues; a truncated or
	// foreign document lacks it.
	Complete bool `json:"complete"`
	// Time is when the server answered, by the server's clock.
	Time time.Time `json:"time"`
	// Servers is the current list of NATS URLs; an agent keeps it and tries them
	// beside those of its configuration.
	Servers []string `json:"servers,omitempty"`
	// Entries are ordered by reference, without duplicates.
	Entries []Entry `json:"entries"`
}

var (
	hashPattern      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	scoreTypePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	epochPattern     = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)
)

// ValidHash reports whether s has the form of a body hash.
func ValidHash(s string) bool { return hashPattern.MatchString(s) }

// ValidScoreType reports whether s has the form of a score type.
func ValidScoreType(s string) bool {
	return len(s) <= MaxScoreType && scoreTypePattern.MatchString(s)
}

// Validate returns an error that wraps ErrManifest unless the manifest may be
// acted upon.
func (m *Manifest) Validate() error {
	switch {
	case !m.Complete:
		return fmt.Errorf("%w: not marked complete", ErrManifest)
	case !epochPattern.MatchString(m.Epoch):
		return fmt.Errorf("%w: bad epoch", ErrManifest)
	case m.Term == 0 || m.Seq == 0:
		return fmt.Errorf("%w: term and seq begin at 1", ErrManifest)
	case len(m.Entries) > MaxEntries:
		return fmt.Errorf("%w: more than %d entries", ErrManifest, MaxEntries)
	}
	for i := range m.Entries {
		if err := m.Entries[i].Validate(); err != nil {
			return fmt.Errorf("%w: %w", ErrManifest, err)
		}
		if i > 0 && m.Entries[i-1].Compare(m.Entries[i].DeploymentRef) >= 0 {
			return fmt.Errorf("%w: entries out of order at %s", ErrManifest, m.Entries[i].DeploymentRef)
		}
	}
	return nil
}

// Validate checks the form of an entry.
func (e *Entry) Validate() error {
	if err := e.DeploymentRef.Validate(); err != nil {
		return err
	}
	switch e.VolumeRetention {
	case "", RetainVolumes, DeleteVolumes:
	default:
		return fmt.Errorf("%s: unknown volumeRetention %.32q", e.DeploymentRef, e.VolumeRetention)
	}
	if e.Hold {
		return nil
	}
	switch {
	case !ValidScoreType(e.Type):
		return fmt.Errorf("%s: bad score type", e.DeploymentRef)
	case !ValidHash(e.Hash), e.Revision != "" && !ValidHash(e.Revision), e.SecretsDigest != "" && !ValidHash(e.SecretsDigest):
		return fmt.Errorf("%s: bad hash", e.DeploymentRef)
	case e.Size <= 0 || e.Size > MaxScoreSize:
		return fmt.Errorf("%s: size %d is not within 1 to %d", e.DeploymentRef, e.Size, MaxScoreSize)
	}
	return nil
}

// Score names the score of the Deployment: its revision, whether it was rendered or not.
func (e *Entry) Score() string { return cmp.Or(e.Revision, e.Hash) }

// Find returns the entry of a Deployment.
func (m *Manifest) Find(ref DeploymentRef) (Entry, bool) {
	i, ok := slices.BinarySearchFunc(m.Entries, ref, func(e Entry, r DeploymentRef) int { return e.Compare(r) })
	if !ok {
		return Entry{}, false
	}
	return m.Entries[i], true
}
