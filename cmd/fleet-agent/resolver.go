package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/resolv"
)

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
				Before:     filepath.Join(dir, "fleet-resolver"),
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
