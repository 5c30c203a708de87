//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"fleet.nationtech.io/fleet/test/lab"
)

// machine is a device of package lab in the host's network, where a port that
// a container publishes is a port of this host.
type machine struct {
	name   string
	binary string
	report *report

	m *lab.Machine
}

func (d *machine) start(ctx context.Context) error {
	l, err := lab.Open(ctx, lab.Options{Progress: d.report})
	if err != nil {
		return err
	}
	d.m, err = l.Ensure(ctx, lab.Config{Name: d.name, Suite: lab.Trixie, Detached: true})
	return err
}

func (d *machine) install(ctx context.Context) error {
	if err := d.m.InstallAgent(ctx, d.binary); err != nil {
		return err
	}
	// An agent that runs takes the new binary; the containers don't notice.
	if _, err := d.m.Output(ctx, "systemctl", "try-restart", "fleet-agent"); err != nil {
		return err
	}
	return d.m.LoadImage(ctx, lab.HelloImage)
}

func (d *machine) id(ctx context.Context) (string, error) {
	return d.m.Output(ctx, "cat", "/etc/machine-id")
}

func (d *machine) enroll(ctx context.Context, url, token string) error {
	return d.m.EnrollAgent(ctx, url, token, deviceName)
}

func (d *machine) diagnose(ctx context.Context) string {
	if d.m == nil {
		return ""
	}
	out, err := d.m.Output(ctx, "journalctl", "--unit=fleet-agent", "--lines=8", "--no-pager", "--output=cat")
	if err != nil {
		return ""
	}
	return out
}

func (d *machine) hint() string {
	return fmt.Sprintf("go run ./test/lab/cmd/lab run --user %s %s -- podman ps", lab.WorkloadUser, d.name)
}

func (d *machine) remove(ctx context.Context) error {
	l, err := lab.Open(ctx, lab.Options{Progress: d.report})
	if err != nil {
		return err
	}
	m, err := l.Attach(ctx, d.name)
	if errors.Is(err, lab.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.Destroy(ctx)
}

func (d *machine) release() error {
	if d.m == nil {
		return nil
	}
	return d.m.Release()
}
