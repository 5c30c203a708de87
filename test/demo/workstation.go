//go:build linux

package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/test/lab"
)

// errWorkstation is wrapped by errors about what a demo without root needs.
var errWorkstation = errors.New("run the demo as root, or in a systemd user session with podman and a static busybox")

// workstation is the current user's own session as a device: the agent runs as
// that user and uses the user's podman.
type workstation struct {
	binary string
	dir    string
}

func (d *workstation) configFile() string { return filepath.Join(d.dir, "agent.yaml") }

func (d *workstation) process() process {
	return process{file: filepath.Join(d.dir, "agent.pid"), log: filepath.Join(d.dir, "agent.log")}
}

// start makes podman listen for the user and prepares the agent's directory.
func (d *workstation) start(ctx context.Context) error {
	for _, program := range []string{"podman", "busybox", "systemctl"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: %s is missing", errWorkstation, program)
		}
	}
	if _, err := output(ctx, nil, "systemctl", "--user", "start", "podman.socket"); err != nil {
		return fmt.Errorf("%w: %w", errWorkstation, err)
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("creating the agent's directory: %w", err)
	}
	if _, err := os.Stat(d.configFile()); err == nil {
		return nil // enrollment has written more into it
	}
	config := fmt.Sprintf("stateDir: %s\n", filepath.Join(d.dir, "state"))
	if err := os.WriteFile(d.configFile(), []byte(config), 0o644); err != nil {
		return fmt.Errorf("writing the agent's configuration: %w", err)
	}
	return nil
}

func (d *workstation) install(ctx context.Context) error {
	busybox, err := staticBusybox()
	if err != nil {
		return err
	}
	archive, err := lab.BuildImage(ctx, busybox, lab.HelloImage)
	if err != nil {
		return err
	}
	if _, err := output(ctx, bytes.NewReader(archive), "podman", "load", "--quiet"); err != nil {
		return err
	}
	if _, running := d.process().pid(); !running {
		return nil
	}
	return d.restart(ctx)
}

// staticBusybox finds a busybox that runs in a container with nothing else.
func staticBusybox() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("%w: %w", errWorkstation, err)
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading busybox: %w", err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return "", fmt.Errorf("%w: %s is linked dynamically, install busybox-static", errWorkstation, path)
	}
	return path, nil
}

func (d *workstation) id(context.Context) (string, error) { return d.dir, nil }

func (d *workstation) enroll(ctx context.Context, url, token string) error {
	_, err := output(ctx, strings.NewReader(token), d.binary, "enroll",
		"--config", d.configFile(), "--server", url, "--name", deviceName, "--force")
	if err != nil {
		return err
	}
	return d.restart(ctx)
}

func (d *workstation) restart(ctx context.Context) error {
	if err := d.process().stop(ctx); err != nil {
		return err
	}
	return d.process().start(d.binary, "run", "--config", d.configFile())
}

func (d *workstation) diagnose(context.Context) string { return tail(d.process().log, 8) }

func (d *workstation) hint() string { return "podman ps" }

// remove takes away the demo's containers, and no others of the user.
func (d *workstation) remove(ctx context.Context) error {
	if err := d.process().stop(ctx); err != nil {
		return err
	}
	if _, err := exec.LookPath("podman"); err != nil {
		return nil
	}
	ids, err := output(ctx, nil, "podman", "ps", "--all", "--quiet", "--filter", "label=fleet.nationtech.io/deployment")
	if err != nil || strings.TrimSpace(ids) == "" {
		return err
	}
	_, err = output(ctx, nil, "podman", append([]string{"rm", "--force", "--time", "5"}, strings.Fields(ids)...)...)
	return err
}

func (d *workstation) release() error { return nil }

// output runs a program and puts what it printed as errors into the error.
func output(ctx context.Context, stdin io.Reader, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running %s: %w: %s", filepath.Base(name), err, lastLine(stderr.String()))
	}
	return string(out), nil
}
