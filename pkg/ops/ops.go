// Package ops is what operators do: let devices in, revoke them, replace them,
// tell a device from its copy, make tokens. It asks the API for all of it, so it
// works from any machine with a kubeconfig. The command lines import it.
package ops

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/client"
)

// Operator acts through the API of a server.
type Operator struct {
	Client *client.Client
	// Manager names the program in managedFields.
	Manager string
	// Program is what errors send the user to.
	Program Program
}

// Program is how its users call the commands of a program.
type Program struct {
	// Device and Token are the commands whose subcommands work on devices and tokens:
	// "fleet-server device", "fleet-server token".
	Device, Token string
	// Devices lists the devices, Requests those that wait for approval.
	Devices, Requests string
	// Kubectl is kubectl.
	Kubectl string
}

// Device returns a Device, or an error that says how to find its name.
func (o *Operator) Device(ctx context.Context, name string) (*v1alpha1.Device, error) {
	d, err := o.Client.Devices().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, o.explain(err, name)
	}
	return d, nil
}

// explain makes of NotFound what an operator can act on.
func (o *Operator) explain(err error, device string) error {
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no device %q: see `%s`", device, o.Program.Devices)
	}
	return err
}

// Revoke refuses the key of a device for good and ends its connection now. An empty policy leaves what the Device says.
func (o *Operator) Revoke(ctx context.Context, name string, policy v1alpha1.RevocationPolicy) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d, err := o.Client.Devices().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		d.Spec.Revoked = true
		if policy != "" {
			d.Spec.OnRevoke = policy
		}
		_, err = o.Client.Devices().Update(ctx, d, metav1.UpdateOptions{FieldManager: o.Manager})
		return err
	})
	return o.explain(err, name)
}

// CheckReplace returns why no machine can take the place of a device, or nil.
func (o *Operator) CheckReplace(ctx context.Context, name string) error {
	d, err := o.Device(ctx, name)
	if err != nil {
		return err
	}
	if d.IsOut() {
		return fmt.Errorf("%[1]s was revoked or is being deleted, so no machine takes its place: delete it with `%[2]s delete fleetdev %[1]s`, and enroll the new machine with any token", d.Name, o.Program.Kubectl)
	}
	return nil
}
