package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/helper/storage"
	"fleet.nationtech.io/fleet/pkg/logging"
	"fleet.nationtech.io/fleet/pkg/printable"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
)

// newHelper is the part of the agent that runs as the account of the workloads.
func newHelper() *cobra.Command {
	var inside bool
	cmd := &cobra.Command{
		Use:    "helper",
		Short:  "Make sockets in containers, look along the paths that they mount, and repair podman's storage",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logging.New(cmd.ErrOrStderr(), "text", "info")
			if err != nil {
				return err
			}
			if inside {
				return helper.ServeInside(cmd.Context(), os.NewFile(insideEnd, "connection of the helper"), log)
			}
			listener, err := activated("fleet-helper.socket of the account that runs the workloads")
			if err != nil {
				return err
			}
			defer listener.Close()
			s := helper.Server{
				Enter:    func(userns, end *os.File) error { return enter(userns, end, cmd.ErrOrStderr(), log) },
				Storage:  storage.Mender{Root: storage.Root(), Run: runProgram, Runs: storage.ContainersRun},
				Mirrors:  mirrorsFile(),
				Reload:   reloadPodman,
				Names:    namesDir(),
				Networks: helper.Networks{Dir: filepath.Join(storage.Root(), "networks"), Label: container.LabelNetwork},
				Log:      log,
			}
			return s.Serve(cmd.Context(), listener)
		},
	}
	cmd.Flags().BoolVar(&inside, "inside", false, "this process is where the containers are")
	return cmd
}

// mirrorsFile is where podman of this account looks for mirrors; empty without a home.
func mirrorsFile() string {
	home, err := os.UserHomeDir()
	if err != nil || home == "" {
		return ""
	}
	return filepath.Join(home, ".config", "containers", "registries.conf.d", "50-fleet-mirror.conf")
}

// namesDir is where podman's server of names of this account has its files; empty without a
// runtime directory.
func namesDir() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "containers", "networks", "aardvark-dns")
}

// reloadPodman lets podman's service, if it runs, begin anew and read its configuration. It does
// so at SIGHUP, too, but forgets where its volumes are.
func reloadPodman(ctx context.Context) error {
	return runProgram(ctx, "systemctl", "--user", "try-restart", "podman.service")
}

// runProgram runs a program of the system to its end. What it printed last is in the error.
func runProgram(ctx context.Context, name string, args ...string) error {
	return runCalled(name, exec.CommandContext(ctx, name, args...)) //nolint:gosec // the mender's words
}

// runCalled runs a command to its end, under the name that an error gives it.
func runCalled(name string, cmd *exec.Cmd) error {
	const last = 200
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, printable.Squeeze(string(out[max(0, len(out)-last):])))
	}
	return nil
}

// activated is the socket that systemd listens on, by a unit.
func activated(unit string) (*net.UnixListener, error) {
	files := activation.Files(false)
	if len(files) != 1 {
		return nil, errors.New("systemd starts this program, by " + unit)
	}
	defer files[0].Close()
	listener, err := net.FileListener(files[0])
	if err != nil {
		return nil, fmt.Errorf("taking over the socket: %w", err)
	}
	return unixListener(listener)
}

func unixListener(listener net.Listener) (*net.UnixListener, error) {
	l, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, errors.New("the socket unit has no socket of the device's own")
	}
	return l, nil
}

// Descriptors of the program inside, which begin after the standard ones.
const (
	insideUserns = 3
	insideEnd    = 4
)

// enter starts this program inside of a user namespace, which ends with its connection. A
// process with threads, as each Go program is one, cannot enter any itself.
func enter(userns, end *os.File, stderr io.Writer, log *slog.Logger) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("nsenter is missing, install the package util-linux: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(nsenter, fmt.Sprintf("--user=/proc/self/fd/%d", insideUserns), "--preserve-credentials", "--", program, "helper", "--inside") //nolint:gosec,noctx // its own program; it ends with its connection
	cmd.ExtraFiles, cmd.Stderr = []*os.File{userns, end}, stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	log.Info("a helper starts in the user namespace of the containers")
	go func() {
		if err := cmd.Wait(); err != nil {
			log.Warn("the helper in the user namespace of the containers ended", "error", err)
		}
	}()
	return nil
}
