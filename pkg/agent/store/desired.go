package store

import (
	"cmp"
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Memory is what the agent remembers of the Deployments that it runs.
type Memory struct {
	// Manifest is the version of the last manifest that it follows from; zero from
	// agents up to 0.1.
	Manifest wire.Version `json:"manifest,omitzero"`
	// ConfirmedEpoch is the epoch whose omissions the operator confirmed.
	ConfirmedEpoch string `json:"confirmedEpoch,omitempty"`
	// Deployments are ordered by reference.
	Deployments []Remembered `json:"deployments"`
}

// Remembered is one Deployment. It stays until the server knows that the
// Deployment is gone from the device.
type Remembered struct {
	wire.DeploymentRef
	// Named is the version of the last manifest that named the Deployment.
	Named wire.Version `json:"named"`
	// Entry is what Named said of it. Agents up to 0.1 did not keep it.
	Entry *wire.Entry `json:"entry,omitempty"`
	// VolumeRetention is that of the last entry.
	VolumeRetention wire.VolumeRetention `json:"volumeRetention,omitempty"`
	// Applied is the hash of the body that the containers were made from; empty
	// until the first one was applied whole.
	Applied string `json:"applied,omitempty"`
	// AppliedSecrets is the digest of the Secrets that they were made with.
	AppliedSecrets string `json:"appliedSecrets,omitempty"`
	// Left: it has to leave the device, or has left it.
	Left bool `json:"left,omitempty"`
}

// Named returns the manifest that the memory follows from, as far as that was about
// Deployments, or nil when it is not known.
func (m *Memory) Named() *wire.Manifest {
	named := &wire.Manifest{Version: m.Manifest, Complete: true}
	for _, r := range m.Deployments {
		if r.Named != m.Manifest {
			continue
		}
		if r.Entry == nil {
			return nil
		}
		named.Entries = append(named.Entries, *r.Entry)
	}
	if named.Validate() != nil {
		return nil
	}
	return named
}

// Manifest returns the last good manifest, or nil. intact is false when a later one was
// damaged or lost.
func (s *Store) Manifest() (m *wire.Manifest, intact bool) {
	return readPair(s, manifestFile, (*wire.Manifest).Validate)
}

// PreviousManifest returns the manifest that the present one replaced, or nil when there
// is none that is whole.
func (s *Store) PreviousManifest() *wire.Manifest {
	m, err := readSealed(s, previousPrefix+manifestFile, (*wire.Manifest).Validate)
	if err != nil {
		return nil // it is missed, and named, when the present one is damaged
	}
	return m
}

// SaveManifest replaces the last good manifest, which becomes the previous one.
func (s *Store) SaveManifest(m *wire.Manifest) error { return writePair(s, manifestFile, m) }

// Memory returns what is remembered, or what was remembered before if that is damaged.
// Items that are malformed are forgotten.
func (s *Store) Memory() Memory {
	m, _ := readPair(s, memoryFile, func(*Memory) error { return nil })
	if m == nil {
		return Memory{}
	}
	m.Deployments = slices.DeleteFunc(m.Deployments, func(r Remembered) bool {
		err := r.DeploymentRef.Validate()
		if err == nil && r.Applied != "" && !wire.ValidHash(r.Applied) {
			err = wire.ErrPayload
		}
		if err != nil {
			s.damaged(memoryFile, err)
		}
		return err != nil
	})
	slices.SortFunc(m.Deployments, func(a, b Remembered) int {
		return cmp.Or(a.Compare(b.DeploymentRef), cmp.Compare(a.Named.Seq, b.Named.Seq))
	})
	return *m
}

// SaveMemory replaces what is remembered.
func (s *Store) SaveMemory(m Memory) error { return writePair(s, memoryFile, &m) }
