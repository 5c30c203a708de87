//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// PodmanSocket is where the workload's podman listens for the agent.
const PodmanSocket = "/run/" + WorkloadUser + "/podman.sock"

// packaged is a file of the agent's package: from packaging/ to its place.
type packaged struct {
	source, target string
	mode           os.FileMode
}

// agentFiles are the files of the agent's package without its binary.
var agentFiles = []packaged{
	{"libexec/setup-user", "/usr/libexec/fleet-agent/setup-user", 0o755},
	{"systemd/fleet-agent.service", "/usr/lib/systemd/system/fleet-agent.service", 0o644},
	{"systemd/fleet-agent-files.socket", "/usr/lib/systemd/system/fleet-agent-files.socket", 0o644},
	{"systemd/fleet-agent-files.service", "/usr/lib/systemd/system/fleet-agent-files.service", 0o644},
	{"systemd/fleet-helper.socket", "/usr/lib/systemd/user/fleet-helper.socket", 0o644},
	{"systemd/fleet-helper.service", "/usr/lib/systemd/user/fleet-helper.service", 0o644},
	{"systemd/fleet-agent.sysusers", "/usr/lib/sysusers.d/fleet-agent.conf", 0o644},
	{"systemd/fleet-agent.tmpfiles", "/usr/lib/tmpfiles.d/fleet-agent.conf", 0o644},
}

// InstallAgent puts what the agent's package holds into the machine and does
// what its scripts do: accounts, subordinate ids, podman's socket, the unit
// enabled. The agent is not started. An empty binary installs all but the
// binary.
func (m *Machine) InstallAgent(ctx context.Context, binary string) error {
	if err := m.installAgentFiles(ctx, binary); err != nil {
		return fmt.Errorf("installing the agent: %w", err)
	}
	for _, command := range [][]string{
		{"systemd-sysusers", "/usr/lib/sysusers.d/fleet-agent.conf"},
		{"/usr/libexec/fleet-agent/setup-user"},
		{"systemctl", "daemon-reload"},
		{"systemctl", "--quiet", "enable", "fleet-agent.service"},
	} {
		if _, err := m.Output(ctx, command...); err != nil {
			return fmt.Errorf("setting up the agent: %w", err)
		}
	}
	return nil
}

// EnrollAgent enrolls the installed agent at a server's enrollment address
// (https://HOST:PORT) as the device of that name, and starts it. An identity of
// before is replaced.
func (m *Machine) EnrollAgent(ctx context.Context, url, token, device string) error {
	const tokenFile = "/run/fleet-token"
	if err := m.WriteFile(ctx, tokenFile, strings.NewReader(token), 0o600); err != nil {
		return err
	}
	_, err := m.Output(ctx, "fleet-agent", "enroll", "--server", url, "--token-file", tokenFile, "--name", device, "--force")
	_, rmErr := m.Output(ctx, "rm", tokenFile)
	if err := errors.Join(err, rmErr); err != nil {
		return fmt.Errorf("enrolling %s: %w", device, err)
	}
	if _, err := m.Output(ctx, "systemctl", "restart", "fleet-agent"); err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	return nil
}

func (m *Machine) installAgentFiles(ctx context.Context, binary string) error {
	for _, f := range agentFiles {
		if err := m.CopyIn(ctx, filepath.Join(m.lab.repo, "packaging", f.source), f.target, f.mode); err != nil {
			return err
		}
	}
	if binary == "" {
		return nil
	}
	return m.CopyIn(ctx, binary, "/usr/bin/fleet-agent", 0o755)
}
