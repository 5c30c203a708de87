package podman

import (
	"os"
	"path/filepath"
)

// WorkloadSocket is where the system user that runs the workloads listens; the
// packages set it up.
const WorkloadSocket = "/run/fleet-workload/podman.sock"

// FindSocket returns the path of podman's socket: the configured one; else,
// for a user other than root, the one of the user's own session when it is
// there; else WorkloadSocket. It is asked again for every connection, because
// a socket may come after the agent.
func FindSocket(configured string) string {
	if configured != "" {
		return configured
	}
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if os.Geteuid() == 0 || runtimeDir == "" {
		return WorkloadSocket
	}
	session := filepath.Join(runtimeDir, "podman", "podman.sock")
	if exists(session) || !exists(WorkloadSocket) {
		return session
	}
	return WorkloadSocket
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
