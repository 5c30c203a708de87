package plugin

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// columns are those of kubectl fleet status. The first is shown for all namespaces, and
// those of priority 1 with -o wide.
var columns = []metav1.TableColumnDefinition{
	{Name: "Namespace", Type: "string"},
	{Name: "Name", Type: "string", Format: "name"},
	{Name: "Status", Type: "string"},
	{Name: "Ready", Type: "string"},
	{Name: "Failed", Type: "integer"},
	{Name: "Pending", Type: "integer"},
	{Name: "Offline", Type: "integer"},
	{Name: "Age", Type: "string"},
	{Name: "Type", Type: "string", Priority: 1},
	{Name: "Outdated", Type: "integer", Priority: 1},
	{Name: "Message", Type: "string"},
}

// ageColumn is the one that changes by itself.
const ageColumn = 7

// Words of column STATUS.
const (
	statusUnknown  = "Unknown"  // the server has not looked at the Deployment, or at its change
	statusRefused  = "Refused"  // the score is not accepted
	statusFailed   = "Failed"   // devices failed
	statusRolling  = "Rolling"  // devices are on their way
	statusNoDevice = "NoDevice" // nothing matches
	statusReady    = "Ready"
	statusDeleting = "Deleting"
)

// cells are the row of a Deployment.
func cells(d *v1alpha1.Deployment, now time.Time) []any {
	var a v1alpha1.Aggregate
	if d.Status.Aggregate != nil {
		a = *d.Status.Aggregate
	}
	status, message := standing(d)
	return []any{
		d.Namespace, d.Name, status, fmt.Sprintf("%d/%d", a.Succeeded, a.MatchedDeviceCount), a.Failed, a.Pending, a.Offline,
		age(d.CreationTimestamp, now), d.Spec.Score.Type, a.Outdated, message,
	}
}

func age(since metav1.Time, now time.Time) string {
	if since.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(since.Time))
}

// standing is how far a Deployment is, and what hinders it.
func standing(d *v1alpha1.Deployment) (status, message string) {
	condition := func(typ string) (string, bool) {
		c := meta.FindStatusCondition(d.Status.Conditions, typ)
		if c == nil {
			return "", false
		}
		return c.Message, c.Status == metav1.ConditionTrue
	}
	if !d.DeletionTimestamp.IsZero() {
		return statusDeleting, ""
	}
	if d.Status.ObservedGeneration != d.Generation {
		return statusUnknown, "the server has not looked at it yet"
	}
	if why, accepted := condition(v1alpha1.DeploymentAccepted); !accepted {
		return statusRefused, why
	}
	if why, stalled := condition(v1alpha1.DeploymentStalled); stalled {
		return statusFailed, why
	}
	if why, rolling := condition(v1alpha1.DeploymentReconciling); rolling {
		if a := d.Status.Aggregate; a != nil && a.Progress != nil {
			return statusRolling, a.Progress.Device + ": " + a.Progress.Message
		}
		return statusRolling, why
	}
	if a := d.Status.Aggregate; a == nil || a.MatchedDeviceCount == 0 {
		return statusNoDevice, "the selector matches no device"
	}
	return statusReady, ""
}
