package store

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Status is what a running agent tells `fleet-agent status`.
type Status struct {
	Device       string    `json:"device"`
	AgentVersion string    `json:"agentVersion"`
	Started      time.Time `json:"started"`
	// Updated is when the agent last wrote this document.
	Updated   time.Time `json:"updated"`
	Connected bool      `json:"connected"`
	// Server is the URL of the present connection.
	Server string `json:"server,omitempty"`
	// LastError says why there is no connection or no manifest.
	LastError string `json:"lastError,omitempty"`
	// LastSnapshot is when the server last answered a snapshot request.
	LastSnapshot time.Time    `json:"lastSnapshot,omitzero"`
	Manifest     wire.Version `json:"manifest"`
	// Held names the Deployments whose omission waits for confirm-epoch.
	Held        []string               `json:"held,omitempty"`
	Conditions  []wire.Condition       `json:"conditions"`
	Deployments []wire.DeploymentState `json:"deployments"`
}

// Status returns the document of the agent that last ran here.
func (s *Store) Status() (Status, bool) {
	var st Status
	ok := s.read(statusFile, &st)
	return st, ok
}

// SaveStatus replaces the status. It is not synced: after a power cut the next
// agent writes its own.
func (s *Store) SaveStatus(data []byte) error {
	path := filepath.Join(s.dir, statusFile)
	temp := filepath.Join(s.dir, tempPrefix+statusFile)
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("writing the status: %w", err)
	}
	return nil
}
