package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/logging"
)

// newHelper is the part of the agent that runs as the account of the workloads.
func newHelper() *cobra.Command {
	var moved bool
	cmd := &cobra.Command{
		Use:    "helper",
		Short:  "Connect to ports in containers for the agent",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logging.New(cmd.ErrOrStderr(), "text", "info")
			if err != nil {
				return err
			}
			file, listener, err := activated()
			if err != nil {
				return err
			}
			defer listener.Close()
			s := helper.Server{Log: log}
			if !moved {
				s.Move = func(userns *os.File) error { return moveTo(userns, file) }
			}
			err = s.Serve(cmd.Context(), listener)
			if errors.Is(err, helper.ErrElsewhere) {
				return nil // systemd starts another one for the next request
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&moved, "moved", false, "this process is where the containers are")
	return cmd
}

// activated is the socket that systemd listens on.
func activated() (*os.File, *net.UnixListener, error) {
	files := activation.Files(false)
	if len(files) != 1 {
		return nil, nil, errors.New("systemd starts this program, by fleet-helper.socket of the account that runs the workloads")
	}
	listener, err := net.FileListener(files[0])
	if err != nil {
		return nil, nil, fmt.Errorf("taking over the socket: %w", err)
	}
	unixListener, ok := listener.(*net.UnixListener)
	if !ok {
		return nil, nil, errors.New("fleet-helper.socket is no socket of the device's own")
	}
	return files[0], unixListener, nil
}

// moveTo makes this process a program inside of a user namespace. A process with threads,
// as each Go program is one, cannot enter any itself.
func moveTo(userns, listener *os.File) error {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return fmt.Errorf("nsenter is missing, install the package util-linux: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	for _, f := range []*os.File{userns, listener} {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	return unix.Exec(nsenter, []string{
		"nsenter", fmt.Sprintf("--user=/proc/self/fd/%d", userns.Fd()), "--preserve-credentials", "--", program, "helper", "--moved",
	}, os.Environ())
}
