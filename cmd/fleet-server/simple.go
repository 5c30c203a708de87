package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/apis/crds"
	"fleet.nationtech.io/fleet/pkg/version"
)

func newGenCRD() *cobra.Command {
	return &cobra.Command{
		Use:     "gen-crd",
		Short:   "Print the CustomResourceDefinitions that the server applies",
		Example: "  fleet-server gen-crd | kubectl apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(crds.YAML())
			return err
		},
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "fleet-server", version.String())
			return err
		},
	}
}
