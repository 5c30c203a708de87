package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/adminapi"
)

func newClock(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "clock",
		Short:   "Show what the server thinks of its clock",
		Example: "  fleet-server clock",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.admin()
			if err != nil {
				return err
			}
			reply, err := c.Clock(cmd.Context(), struct{}{})
			return printClock(cmd, reply, err)
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "accept",
		Short: "Tell the server that its clock is right",
		Long: "Tell the server that its clock is right, after it was set by more than 5 minutes. Until then\n" +
			"devices stay connected, but no tokens and certificates are made.",
		Example: "  fleet-server clock accept",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.admin()
			if err != nil {
				return err
			}
			reply, err := c.AcceptClock(cmd.Context(), struct{}{})
			return printClock(cmd, reply, err)
		},
	})
	return cmd
}

func printClock(cmd *cobra.Command, reply adminapi.ClockReply, err error) error {
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "The server goes by %s.\n", reply.Time.UTC().Format(time.RFC3339))
	if reply.Insane != "" {
		return errors.New(reply.Insane)
	}
	return nil
}

// admin returns a client for what is no object of the API.
func (o *options) admin() (*adminapi.Client, error) {
	config, err := o.restConfig()
	if err != nil {
		return nil, err
	}
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return &adminapi.Client{HTTP: h, Host: config.Host}, nil
}

// clockIsRight refuses what would carry a wrong time. The API may be another's,
// which knows nothing of this.
func (o *options) clockIsRight(ctx context.Context) error {
	c, err := o.admin()
	if err != nil {
		return err
	}
	reply, err := c.Clock(ctx, struct{}{})
	if errors.Is(err, adminapi.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if reply.Insane != "" {
		return errors.New(reply.Insane)
	}
	return nil
}
