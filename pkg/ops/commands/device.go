package commands

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/ops"
)

// Revoke returns the command that revokes a device.
func (h Host) Revoke() *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Revoke a device: its connection ends now, its key is refused for good",
		Long: "Revoke a device: its connection ends now, its key is refused for good.\n" +
			"--workloads says what the device does with its containers: keep them running, stop them, or wipe\n" +
			"containers, volumes, secrets and the key. One that is switched off learns it when it comes back.",
		Example: "  " + h.Device + " revoke gateway-1f2e3d --workloads wipe",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			onRevoke, ok := map[string]v1alpha1.RevocationPolicy{"keep": v1alpha1.RevokeKeep, "stop": v1alpha1.RevokeStop, "wipe": v1alpha1.RevokeWipe}[policy]
			if !ok && policy != "" {
				return fmt.Errorf("--workloads %q: it must be keep, stop or wipe", policy)
			}
			operator, err := h.Operator(cmd.Context())
			if err != nil {
				return err
			}
			if err := operator.Revoke(cmd.Context(), bareName(args[0]), onRevoke); err != nil {
				return err
			}
			return say(cmd, bareName(args[0]), "revoked")
		},
	}
	cmd.Flags().StringVar(&policy, "workloads", "", "keep, stop or wipe (default: what the Device says, which is keep unless it was changed)")
	return cmd
}

// Replace returns the command that makes a token for a new machine.
func (h Host) Replace() *cobra.Command {
	t := tokenOptions{uses: 1, preApprove: true}
	cmd := &cobra.Command{
		Use:   "replace NAME",
		Short: "Create a token with which a new machine takes the place of a device",
		Long: "Create a token with which a new machine takes the place of a device, and print it, alone on a line.\n" +
			"The new machine gets the name, the labels and the workloads. The key of the old one is refused\n" +
			"as soon as the new one enrolls.",
		Example: "  " + h.Device + " replace gateway-1f2e3d\n" +
			"  # on the new machine\n" +
			"  fleet-agent enroll --server https://HOST:8443 --name gateway-1f2e3d",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			operator, err := h.Operator(cmd.Context())
			if err != nil {
				return err
			}
			t.replaces = bareName(args[0])
			if err := operator.CheckReplace(cmd.Context(), t.replaces); err != nil {
				return err
			}
			return t.create(cmd, h)
		},
	}
	cmd.Flags().DurationVar(&t.ttl, "ttl", v1alpha1.DefaultTokenTTL, "how long the token works")
	return cmd
}

// Accept returns the command that tells a device from its copy.
func (h Host) Accept() *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use:   "accept NAME --session SESSION",
		Short: "Decide which machine is the device when a copy of it is suspected",
		Long: "Decide about a device whose condition CloneSuspected is True: one of the machines that claim to be it is the\n" +
			"device, and the others get nothing. Without --session the command lists them. `fleet-agent hardware-id`, as root\n" +
			"on the machine, prints its hardware id; a malicious copy can claim that of another machine. If you cannot tell which\n" +
			"is which, revoke the device and enroll it again.\n" +
			"The same as: kubectl patch device NAME --subresource=status --type=merge -p '{\"status\":{\"accepted\":\"SESSION\"}}'",
		Example: "  " + h.Device + " accept gateway-1f2e3d\n" +
			"  " + h.Device + " accept gateway-1f2e3d --session 4f2ac19d03be",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			operator, err := h.Operator(cmd.Context())
			if err != nil {
				return err
			}
			d, err := operator.Device(cmd.Context(), bareName(args[0]))
			if err != nil {
				return err
			}
			if err := ops.CheckSession(d, session); err != nil {
				return claims(cmd.OutOrStdout(), d, err)
			}
			if err := operator.Accept(cmd.Context(), d, session); err != nil {
				return err
			}
			return say(cmd, d.Name, "session "+session+" accepted")
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the `SESSION` that is the device, as the list has it")
	return cmd
}

// claims lists the sessions that claim to be the device, of which none was named,
// or another.
func claims(w io.Writer, d *v1alpha1.Device, why error) error {
	if len(d.Status.Claimants) == 0 {
		return why
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "SESSION\tSTANDING\tADDRESS\tKEY\tHARDWARE")
	for _, k := range d.Status.Claimants {
		standing := "gets nothing"
		if k.Current {
			standing = "is the device"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.12s\t%s\n", k.Session, standing, k.Address, k.KeyFingerprint, k.HardwareID)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if errors.Is(why, ops.ErrNoSession) {
		return fmt.Errorf("which of them is %s? Repeat the command with --session SESSION", d.Name)
	}
	return why
}

// bareName takes the kind from a name, before which kubectl prints it.
func bareName(arg string) string {
	kind, name, both := strings.Cut(arg, "/")
	kind, _, _ = strings.Cut(kind, ".")
	if both && slices.Contains([]string{"device", "devices", "fleetdev", "enrollmentrequest", "enrollmentrequests"}, kind) {
		return name
	}
	return arg
}
