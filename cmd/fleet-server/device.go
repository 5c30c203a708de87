package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

func newDevice(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "device", Short: "List devices, let them in, throw them out, replace them"}
	cmd.AddCommand(
		newDeviceList(o), newRevoke(o), newReplace(o), newAccept(o),
		newApprove(o), newDeny(o), newReopen(o),
	)
	return cmd
}

func newDeviceList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the devices and those that wait for approval",
		Long:  "List the devices and those that wait for approval. The same as: fleet-server kubectl get devices,enrollmentrequests",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.kubectl(cmd, "get", "devices,enrollmentrequests", "-o", "wide")
		},
	}
}

func newRevoke(o *options) *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Throw a device out: its connection ends now, its key is refused for good",
		Long: "Throw a device out: its connection ends now, its key is refused for good.\n" +
			"--workloads says what the device does with its containers: keep them running, stop them, or wipe\n" +
			"containers, volumes, secrets and the key. One that is switched off learns it when it comes back.",
		Example: "  fleet-server device revoke gateway-1f2e3d --workloads wipe",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			onRevoke, ok := map[string]v1alpha1.RevocationPolicy{"keep": v1alpha1.RevokeKeep, "stop": v1alpha1.RevokeStop, "wipe": v1alpha1.RevokeWipe}[policy]
			if !ok && policy != "" {
				return fmt.Errorf("--workloads %q: it must be keep, stop or wipe", policy)
			}
			return o.edit(cmd, args[0], "revoked", func(d *v1alpha1.Device) {
				d.Spec.Revoked = true
				if ok {
					d.Spec.OnRevoke = onRevoke
				}
			})
		},
	}
	cmd.Flags().StringVar(&policy, "workloads", "", "keep, stop or wipe (default: what the Device says, which is keep unless it was changed)")
	return cmd
}

// edit changes a Device and says what became of it.
func (o *options) edit(cmd *cobra.Command, name, done string, change func(*v1alpha1.Device)) error {
	c, _, err := o.client()
	if err != nil {
		return err
	}
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d, err := c.Devices().Get(cmd.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(d)
		_, err = c.Devices().Update(cmd.Context(), d, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	if apierrors.IsNotFound(err) {
		return noDevice(name)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", name, done)
	return err
}

func noDevice(name string) error {
	return fmt.Errorf("there is no device %q: see `fleet-server device list`", name)
}

func newReplace(o *options) *cobra.Command {
	t := tokenOptions{uses: 1, preApprove: true}
	cmd := &cobra.Command{
		Use:   "replace NAME",
		Short: "Create a token with which a new machine takes the place of a device",
		Long: "Create a token with which a new machine takes the place of a device, and print it, alone on a line.\n" +
			"The new machine gets the name, the labels and the workloads. The key of the old one is refused\n" +
			"as soon as the new one enrolls.",
		Example: "  fleet-server device replace gateway-1f2e3d\n" +
			"  # on the new machine\n" +
			"  fleet-agent enroll --server https://HOST:8443 --name gateway-1f2e3d",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := o.client()
			if err != nil {
				return err
			}
			d, err := c.Devices().Get(cmd.Context(), args[0], metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return noDevice(args[0])
			}
			if err != nil {
				return err
			}
			if d.IsOut() {
				return fmt.Errorf("%[1]s was revoked or is being deleted, so no machine takes its place: delete it with `fleet-server kubectl delete fleetdev %[1]s`, and enroll the new machine with any token", d.Name)
			}
			t.replaces = args[0]
			return t.create(cmd, o)
		},
	}
	cmd.Flags().DurationVar(&t.ttl, "ttl", v1alpha1.DefaultTokenTTL, "how long the token works")
	return cmd
}

func newAccept(o *options) *cobra.Command {
	var session string
	cmd := &cobra.Command{
		Use:   "accept NAME --session SESSION",
		Short: "Decide which machine is the device when a copy of it is suspected",
		Long: "Decide about a device whose condition CloneSuspected is True: one of the machines that claim to be it is the\n" +
			"device, and the others get nothing. Without --session the command lists them. `fleet-agent hardware-id`, as root\n" +
			"on the machine, prints its hardware id; a malicious copy can claim that of another machine. If you cannot tell which\n" +
			"is which, revoke the device and enroll it again.\n" +
			"The same as: kubectl patch device NAME --subresource=status --type=merge -p '{\"status\":{\"accepted\":\"SESSION\"}}'",
		Example: "  fleet-server device accept gateway-1f2e3d\n" +
			"  fleet-server device accept gateway-1f2e3d --session 4f2ac19d03be",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := o.client()
			if err != nil {
				return err
			}
			d, err := c.Devices().Get(cmd.Context(), args[0], metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return noDevice(args[0])
			}
			if err != nil {
				return err
			}
			if err := claims(cmd.OutOrStdout(), d, session); err != nil {
				return err
			}
			// With the version that was looked at: who claims may have changed since.
			d.Status.Accepted = session
			if _, err = c.Devices().UpdateStatus(cmd.Context(), d, metav1.UpdateOptions{FieldManager: fieldManager}); err != nil {
				return fmt.Errorf("accepting session %s of %s: %w", session, d.Name, err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: session %s accepted\n", d.Name, session)
			return err
		},
	}
	cmd.Flags().StringVar(&session, "session", "", "the `SESSION` that is the device, as the list has it")
	return cmd
}

// claims returns nil when session is one of those that claim to be the device, and
// else lists them.
func claims(w io.Writer, d *v1alpha1.Device, session string) error {
	if !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceCloneSuspected) {
		return fmt.Errorf("no copy of %s is suspected: there is nothing to decide", d.Name)
	}
	if slices.ContainsFunc(d.Status.Claimants, func(k v1alpha1.DeviceClaimant) bool { return k.Session == session }) {
		return nil
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
	if session != "" {
		return fmt.Errorf("session %q does not claim to be %s: take one of the list; a machine whose agent restarted has another", session, d.Name)
	}
	return fmt.Errorf("which of them is %s? Repeat the command with --session SESSION", d.Name)
}
