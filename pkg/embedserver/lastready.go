package embedserver

import (
	"encoding/json"
	"time"

	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/version"
)

// readyFile says when a server was last ready here. An upgrade that was
// interrupted learns from it that the data have been in use since its backup.
const readyFile = "last-ready.json"

// readiness is the content of the file.
type readiness struct {
	Version string    `json:"version"`
	Time    time.Time `json:"time"`
}

// noteReady writes the file. Without it the server works as well.
func (s *server) noteReady() {
	data, err := json.Marshal(readiness{version.Version, time.Now().UTC()})
	if err == nil {
		err = atomicfile.Write(s.path(readyFile), data, 0o600)
	}
	if err != nil {
		s.Logger.Warn("writing down that the server is ready", "error", err)
	}
}
