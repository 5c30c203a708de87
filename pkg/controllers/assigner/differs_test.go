package assigner_test

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/controllers/assigner"
)

// A Device is work when its facts change, which the API server counts as a
// generation as far as they are in the spec.
func TestDeviceDiffersWhenItsFactsDo(t *testing.T) {
	t.Parallel()
	now := metav1.Now()
	for name, change := range map[string]func(*v1alpha1.Device){
		"nothing":       func(*v1alpha1.Device) {},
		"last seen":     func(d *v1alpha1.Device) { d.Status.LastSeen = &now; d.ResourceVersion = "2" },
		"annotation":    func(d *v1alpha1.Device) { d.Annotations = map[string]string{"a": "b"} },
		"label":         func(d *v1alpha1.Device) { d.Labels = map[string]string{"group": "b"} },
		"label gone":    func(d *v1alpha1.Device) { d.Labels = nil },
		"unschedulable": func(d *v1alpha1.Device) { d.Generation++; d.Spec.Unschedulable = true },
		"revoked":       func(d *v1alpha1.Device) { d.Generation++; d.Spec.Revoked = true },
		"namespaces":    func(d *v1alpha1.Device) { d.Generation++; d.Spec.AllowedNamespaces = &[]string{"shop"} },
		"deletion":      func(d *v1alpha1.Device) { d.DeletionTimestamp = &now },
		"connected": func(d *v1alpha1.Device) {
			d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.DeviceConnected, Status: metav1.ConditionTrue}}
		},
		"not connected": func(d *v1alpha1.Device) {
			d.Status.Conditions = []metav1.Condition{{Type: v1alpha1.DeviceConnected, Status: metav1.ConditionUnknown}}
		},
		"capabilities":         func(d *v1alpha1.Device) { d.Status.Capabilities = []string{"score/PodmanV0"} },
		"can nothing, says so": func(d *v1alpha1.Device) { d.Status.Capabilities = []string{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, can := range [][]string{nil, {"other/1"}} {
				old := deviceObject("edge-1", "a")
				old.Status.Capabilities = can
				changed := old.DeepCopy()
				change(changed)
				// Values are annotations, and the inventory, which is of the specification.
				same := cmp.Equal(assigner.DeviceFacts(old), assigner.DeviceFacts(changed), cmpopts.IgnoreFields(assignment.Device{}, "Values"))
				want := !same || !maps.Equal(old.Annotations, changed.Annotations)
				if got := assigner.DeviceDiffers(old, changed); got != want {
					t.Errorf("differs from one that can do %q: %v, want %v", can, got, want)
				}
			}
		})
	}
}

// What is written to a status is no work, and a Deployment is evaluated once for
// each change.
func TestStatusesAreNoWork(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	web := deploymentObject("web", "a")
	r.deployments.Add(web)
	r.startAll()
	for range 10 {
		shown := web.DeepCopy()
		shown.Status.ObservedGeneration = 1
		r.deployments.Modify(shown)
		seen, now := deviceObject("edge-1", "a"), metav1.Now()
		seen.Status.LastSeen = &now
		r.devices.Modify(seen)
	}
	last := deploymentObject("api", "a")
	r.deployments.Add(last)
	r.keys("edge-1.shop.api", "edge-1.shop.web")
	if diff := cmp.Diff(map[assigner.Phase]int{assigner.RollingOut: 2}, r.CountPhases()); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
	if n := testutil.ToFloat64(r.verdicts.Collectors()[0]); n != 2 {
		t.Errorf("%v evaluations of 2 Deployments", n)
	}
}
