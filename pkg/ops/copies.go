package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// ErrNoSession: no session was named. The operator has to see them first.
var ErrNoSession = errors.New("no session is named")

// CheckSession returns nil when a session is one of those that claim to be the
// device, and ErrNoSession when it is empty.
func CheckSession(d *v1alpha1.Device, session string) error {
	switch {
	case !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceCloneSuspected):
		return fmt.Errorf("no copy of %s is suspected: there is nothing to decide", d.Name)
	case session == "":
		return ErrNoSession
	case !slices.ContainsFunc(d.Status.Claimants, func(k v1alpha1.DeviceClaimant) bool { return k.Session == session }):
		return fmt.Errorf("session %q does not claim to be %s: take one of the list; a machine whose agent restarted has another", session, d.Name)
	}
	return nil
}

// Accept decides that a session is the device. The Device is the one that the
// operator looked at: who claims to be it may have changed since.
func (o *Operator) Accept(ctx context.Context, d *v1alpha1.Device, session string) error {
	if err := CheckSession(d, session); err != nil {
		return err
	}
	d.Status.Accepted = session
	if _, err := o.Client.Devices().UpdateStatus(ctx, d, metav1.UpdateOptions{FieldManager: o.Manager}); err != nil {
		return fmt.Errorf("accepting session %s of %s: %w", session, d.Name, err)
	}
	return nil
}
