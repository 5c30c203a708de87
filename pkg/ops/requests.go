package ops

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Request returns the request of the device that waits under a name.
func (o *Operator) Request(ctx context.Context, name string) (*v1alpha1.EnrollmentRequest, error) {
	r, err := o.Client.EnrollmentRequests().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, o.nobodyWaits(name)
	}
	return r, err
}

func (o *Operator) nobodyWaits(name string) error {
	return fmt.Errorf("no device named %q waits for approval: see `%s`", name, o.Program.Requests)
}

// CheckFingerprint returns an error unless a request has the key whose fingerprint
// the device shows.
func (o *Operator) CheckFingerprint(r *v1alpha1.EnrollmentRequest, fingerprint string) error {
	digits, err := wire.ParseFingerprint(fingerprint)
	if err != nil {
		return fmt.Errorf("fingerprint: %w", err)
	}
	if !wire.MatchFingerprint(r.Spec.KeyFingerprint, digits) {
		return fmt.Errorf("fingerprint: the device that waits under the name %q has another key: it is another machine, deny it with `%s deny %s`", r.Name, o.Program.Device, r.Name)
	}
	return nil
}

// Approve lets the device in whose request the operator saw, and no other.
func (o *Operator) Approve(ctx context.Context, seen *v1alpha1.EnrollmentRequest) error {
	return o.decide(ctx, seen, v1alpha1.RequestApproved)
}

// Deny refuses the device whose request the operator saw. Its name is closed until
// Reopen.
func (o *Operator) Deny(ctx context.Context, seen *v1alpha1.EnrollmentRequest) error {
	return o.decide(ctx, seen, v1alpha1.RequestDenied)
}

func (o *Operator) decide(ctx context.Context, seen *v1alpha1.EnrollmentRequest, condition string) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		r, err := o.Client.EnrollmentRequests().Get(ctx, seen.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if r.UID != seen.UID || r.Spec.KeyFingerprint != seen.Spec.KeyFingerprint {
			return fmt.Errorf("another device waits under the name %q by now: repeat the command to see it", r.Name)
		}
		r.Status.ApprovedKeyFingerprint = ""
		if condition == v1alpha1.RequestApproved {
			r.Status.ApprovedKeyFingerprint = seen.Spec.KeyFingerprint
		}
		for _, typ := range []string{v1alpha1.RequestApproved, v1alpha1.RequestDenied} {
			status := metav1.ConditionFalse
			if typ == condition {
				status = metav1.ConditionTrue
			}
			meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{
				Type: typ, Status: status, Reason: "Operator", Message: "decided with " + o.Manager,
			})
		}
		_, err = o.Client.EnrollmentRequests().UpdateStatus(ctx, r, metav1.UpdateOptions{FieldManager: o.Manager})
		return err
	})
	if apierrors.IsNotFound(err) {
		return o.nobodyWaits(seen.Name)
	}
	return err
}

// Reopen opens a name that a denial closed.
func (o *Operator) Reopen(ctx context.Context, name string) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		r, err := o.Client.EnrollmentRequests().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return fmt.Errorf("the name %q is not closed: see `%s`", name, o.Program.Devices)
		case err != nil:
			return err
		case !r.IsDenied():
			return fmt.Errorf("the name %q is not closed: a device waits under it, approve or deny that one", name)
		}
		options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion}}
		return o.Client.EnrollmentRequests().Delete(ctx, name, options)
	})
}
