package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/adminapi"
)

func newCA(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "Replace the authorities that issue certificates"}
	cmd.AddCommand(newCARotate(o), newCAPrune(o))
	return cmd
}

func newCARotate(o *options) *cobra.Command {
	var req adminapi.RotateRequest
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make new issuing authorities, and a new root with --root",
		Long: "Make new issuing authorities for servers, devices and operators, and a new root with --root.\n" +
			"The running server uses them at once. Certificates of the old ones stay good until they expire\n" +
			"or fleet-server ca prune forgets the old ones; devices that know only the old root still connect.",
		Example: "  fleet-server ca rotate\n  fleet-server ca rotate --root",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.admin()
			if err != nil {
				return err
			}
			reply, err := c.RotateCA(cmd.Context(), req)
			if err != nil {
				return fmt.Errorf("replacing the authorities: %w", err)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "These issue from now on:\n  %s\n", strings.Join(reply.Authorities, "\n  "))
			_, err = fmt.Fprintf(w, "The old ones are trusted until: fleet-server ca prune\n")
			return err
		},
	}
	cmd.Flags().BoolVar(&req.Root, "root", false, "replace the root too, which tokens and devices pin")
	return cmd
}

func newCAPrune(o *options) *cobra.Command {
	var req adminapi.PruneRequest
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Forget old authorities that nothing depends on any more",
		Long: "Forget old authorities that nothing depends on any more, and say what the others are kept for.\n" +
			"With --force they are forgotten too: what depends on them is refused from then on.",
		Example: "  fleet-server ca prune",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.admin()
			if err != nil {
				return err
			}
			reply, err := c.PruneCA(cmd.Context(), req)
			if err != nil {
				return fmt.Errorf("forgetting old authorities: %w", err)
			}
			return printPruned(cmd.OutOrStdout(), reply)
		},
	}
	cmd.Flags().BoolVar(&req.Force, "force", false, "forget old authorities that something depends on")
	return cmd
}

func printPruned(w io.Writer, reply adminapi.PruneReply) error {
	if len(reply.Forgotten)+len(reply.Kept) == 0 {
		_, err := fmt.Fprintln(w, "There are no old authorities.")
		return err
	}
	for _, name := range reply.Forgotten {
		fmt.Fprintf(w, "%s: forgotten\n", name)
	}
	for _, k := range reply.Kept {
		var reasons []string
		if len(k.Devices) > 0 {
			reasons = append(reasons, "devices that have not renewed yet: "+strings.Join(k.Devices, ", "))
		}
		if len(k.Tokens) > 0 {
			reasons = append(reasons, "tokens: "+strings.Join(k.Tokens, ", "))
		}
		if !k.Until.IsZero() {
			reasons = append(reasons, "kubeconfigs, until "+k.Until.UTC().Format(time.DateOnly))
		}
		fmt.Fprintf(w, "%s: kept for %s\n", k.Name, strings.Join(reasons, "; "))
	}
	return nil
}
