package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/resolv"
)

// reloadNames makes podman's server of names read again whom it asks. Its process is what the
// file says if that is what it is called: the number may be another's by now.
func reloadNames(pidFile string) error {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return nil // none runs
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		return nil
	}
	name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil || strings.TrimSpace(string(name)) != "aardvark-dns" {
		return nil
	}
	return syscall.Kill(pid, syscall.SIGHUP)
}

func newFollowResolver() *cobra.Command {
	var settle bool
	cmd := &cobra.Command{
		Use:   "follow-resolver",
		Short: "Give running containers the resolvers that the device has now",
		Long: `Give running containers the resolvers that the device has now. Units of
fleet-workload run it when resolv.conf changes; setup-user makes the units.`,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir := os.Getenv("XDG_RUNTIME_DIR")
			if dir == "" {
				return errors.New("XDG_RUNTIME_DIR is not set: systemctl --user start fleet-resolver.service runs this")
			}
			files := resolv.Files{
				Device:     "/etc/resolv.conf",
				Upstream:   "/run/systemd/resolve/resolv.conf",
				Containers: filepath.Join(dir, "containers"),
				Networks: []string{
					filepath.Join(dir, "containers/networks/rootless-netns/resolv.conf"),
					filepath.Join(dir, "libpod/tmp/rootless-netns/resolv.conf"), // podman 4
				},
				Reload: func() error { return reloadNames(filepath.Join(dir, "containers/networks/aardvark-dns/aardvark.pid")) },
				Before: filepath.Join(dir, "fleet-resolver"),
			}
			if settle {
				return files.Settle(cmd.Context())
			}
			_, err := files.Sync()
			return err
		},
	}
	cmd.Flags().BoolVar(&settle, "settle", false, "wait a little, and go on until nothing changes any more")
	return cmd
}
