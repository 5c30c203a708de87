//go:build linux

// Command demo shows the whole of fleet on one machine: a server, a device with
// real systemd and rootless podman, and a container that kubectl started on it.
//
//	go run ./test/demo up
//	go run ./test/demo down
//
// As root the device is a machine of package lab. Without root, in a systemd
// user session with podman, the agent runs as the current user instead.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var dir string
	root := &cobra.Command{
		Use:           "demo",
		Short:         "Show a server, a device and a container on it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&dir, "dir", ".demo", "directory of the demo's state")
	command := func(use, short string, do func(*demo, context.Context) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := newDemo(dir, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			return do(d, cmd.Context())
		}}
	}
	root.AddCommand(
		command("up", "Start the demo, or bring it up to date", (*demo).up),
		command("down", "Remove everything that the demo made; caches stay", (*demo).down),
	)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// newDemo wires the parts. Paths are relative to the working directory, which
// has to be the repository.
func newDemo(dir string, out io.Writer) (*demo, error) {
	repo, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("finding the repository: %w", err)
	}
	if _, err := os.Stat(filepath.Join(repo, "examples", "hello.yaml")); err != nil {
		return nil, fmt.Errorf("run the demo in the root of the repository: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("resolving the demo's directory: %w", err)
	}
	report := &report{out: out}
	d := &demo{
		repo:   repo,
		dir:    dir,
		report: report,
		server: &server{
			binary: filepath.Join(repo, "bin", "fleet-server"),
			dir:    dir,
		},
	}
	agent := filepath.Join(repo, "bin", "fleet-agent")
	if os.Geteuid() == 0 {
		d.device = &machine{name: machineName(dir), binary: agent, report: report}
	} else {
		d.device = &workstation{binary: agent, dir: filepath.Join(dir, "agent")}
	}
	return d, nil
}

// machineName tells the machines of demos in several directories apart.
func machineName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "fleet-demo-" + hex.EncodeToString(sum[:2])
}
