package device

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/deviceapi/session"
)

// acceptIfAsked lets whichever session asks next be the device, after an
// operator removed the nonce of a device with a suspected copy.
func (c *Controller) acceptIfAsked(d *v1alpha1.Device) {
	if d.Status.Nonce != nil || !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceCloneSuspected) {
		return
	}
	c.Logger.Info("an operator accepts a device with a suspected copy", "device", d.Name)
	c.Sessions.Accept(d.Name)
	c.Door.Nudge(d.Name)
}

// setSuspicion shows whether a session of the device is taken for a copy.
func setSuspicion(status *v1alpha1.DeviceStatus, generation int64, suspicion string) {
	condition := metav1.Condition{Type: v1alpha1.DeviceCloneSuspected, ObservedGeneration: generation}
	switch {
	case suspicion != "":
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, v1alpha1.ReasonStaleNonce, suspicion
	case meta.FindStatusCondition(status.Conditions, condition.Type) != nil:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, v1alpha1.ReasonOneDevice, "no copy of the device was seen"
	default:
		return
	}
	meta.SetStatusCondition(&status.Conditions, condition)
}

// reportSuspicion records an event when a copy was seen for the first time.
func (c *Controller) reportSuspicion(d *v1alpha1.Device, status *v1alpha1.DeviceStatus) {
	suspected := meta.FindStatusCondition(status.Conditions, v1alpha1.DeviceCloneSuspected)
	if suspected == nil || suspected.Status != metav1.ConditionTrue || meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.DeviceCloneSuspected) {
		return
	}
	c.Logger.Warn("a device may have been copied", "device", d.Name, "reason", suspected.Message)
	c.Recorder.Eventf(d, corev1.EventTypeWarning, v1alpha1.DeviceCloneSuspected, "%s: it gets nothing new. Decide with "+
		"`fleet-server device accept %s`, for the session that asks next, or `fleet-server device revoke %s`", suspected.Message, d.Name, d.Name)
}

// suspicion is what the object says about a copy.
func suspicion(d *v1alpha1.Device) string {
	if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.DeviceCloneSuspected); c != nil && c.Status == metav1.ConditionTrue {
		return c.Message
	}
	return ""
}

func storedNonce(d *v1alpha1.Device) *session.Nonce {
	n := d.Status.Nonce
	if n == nil {
		return nil
	}
	return &session.Nonce{Shown: n.Shown, Issued: slices.Clone(n.Issued), Epoch: n.Epoch, IssuedAt: n.IssuedAt.Time}
}

func statusNonce(n *session.Nonce) *v1alpha1.DeviceNonce {
	if n == nil {
		return nil
	}
	return &v1alpha1.DeviceNonce{
		Shown: n.Shown, Issued: slices.Clone(n.Issued), Epoch: n.Epoch,
		IssuedAt: metav1.NewTime(n.IssuedAt.UTC().Truncate(time.Second)),
	}
}
