package main

import (
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

func newDevice(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "device", Short: "Decide about devices that want to enroll"}
	cmd.AddCommand(
		newDecision(o, "approve", v1alpha1.RequestApproved, "Let a device in that waits for approval"),
		newDecision(o, "deny", v1alpha1.RequestDenied, "Refuse a device that waits for approval"),
	)
	return cmd
}

func newDecision(o *options, use, condition, short string) *cobra.Command {
	return &cobra.Command{
		Use:     use + " NAME",
		Short:   short,
		Long:    short + ".\nList those that wait with: fleet-server kubectl get enrollmentrequests",
		Example: "  fleet-server device " + use + " gateway-1f2e3d",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.decide(cmd, args[0], condition); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], condition)
			return err
		},
	}
}

func (o *options) decide(cmd *cobra.Command, name, condition string) error {
	c, _, err := o.client()
	if err != nil {
		return err
	}
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		r, err := c.EnrollmentRequests().Get(cmd.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, typ := range []string{v1alpha1.RequestApproved, v1alpha1.RequestDenied} {
			status := metav1.ConditionFalse
			if typ == condition {
				status = metav1.ConditionTrue
			}
			meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{
				Type: typ, Status: status, Reason: "Operator", Message: "decided with fleet-server device",
			})
		}
		_, err = c.EnrollmentRequests().UpdateStatus(cmd.Context(), r, metav1.UpdateOptions{FieldManager: fieldManager})
		return err
	})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("no device named %q waits for approval: see `fleet-server kubectl get enrollmentrequests`", name)
	}
	return err
}
