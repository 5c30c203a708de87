//go:build linux

package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// sweepNamespaces removes what a killed run left of a libvirt of its own: its
// processes are those in its network namespace.
func sweepNamespaces(ctx context.Context) error {
	list, err := tool(ctx, "ip", "netns", "list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(list) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(name, namePrefix) {
			continue
		}
		pids, err := tool(ctx, "ip", "netns", "pids", name)
		if err != nil {
			return err
		}
		for pid := range strings.FieldsSeq(pids) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL) // it may have ended
			}
		}
		if _, err := tool(ctx, "ip", "netns", "delete", name); err != nil {
			return err
		}
	}
	return nil
}

// sweepLibvirt removes what a killed run left in libvirt.
func sweepLibvirt(ctx context.Context) error {
	var errs []error
	for _, kind := range []struct {
		list []string
		// remove are commands of which the first fails when the thing is off.
		remove []string
	}{
		{[]string{"list", "--all", "--name"}, []string{"destroy", "undefine"}},
		{[]string{"net-list", "--all", "--name"}, []string{"net-destroy", "net-undefine"}},
		{[]string{"pool-list", "--all", "--name"}, []string{"pool-destroy"}},
	} {
		names, err := virsh(ctx, kind.list...)
		errs = append(errs, err)
		for name := range strings.FieldsSeq(names) {
			if !strings.HasPrefix(name, namePrefix) {
				continue
			}
			for _, command := range kind.remove {
				_, _ = virsh(ctx, command, name) // what stays fails to be made again
			}
		}
	}
	leftovers, err := filepath.Glob(filepath.Join(poolsDir, namePrefix+"*"))
	errs = append(errs, err)
	for _, dir := range leftovers {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}
