package store

import (
	"cmp"
	"slices"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Memory is what the agent remembers of the Deployments that it runs.
type Memory struct {
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
	// VolumeRetention is that of the last entry.
	VolumeRetention wire.VolumeRetention `json:"volumeRetention,omitempty"`
	// Applied is the hash of the body that the containers were made from; empty
	// until the first one was applied whole.
	Applied string `json:"applied,omitempty"`
	// AppliedSecrets is the digest of the Secrets that they were made with.
	AppliedSecrets string `json:"appliedSecrets,omitempty"`
}

// Manifest returns the last good manifest, or nil.
func (s *Store) Manifest() *wire.Manifest {
	var m wire.Manifest
	if !s.read(manifestFile, &m) {
		return nil
	}
	if err := m.Validate(); err != nil {
		s.damaged(manifestFile, err)
		return nil
	}
	return &m
}

// SaveManifest replaces the last good manifest.
func (s *Store) SaveManifest(m *wire.Manifest) error { return s.write(manifestFile, m, 0o600) }

// Memory returns what is remembered; what is damaged is forgotten.
func (s *Store) Memory() Memory {
	var m Memory
	if !s.read(memoryFile, &m) {
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
	return m
}

// SaveMemory replaces what is remembered.
func (s *Store) SaveMemory(m Memory) error { return s.write(memoryFile, m, 0o600) }
