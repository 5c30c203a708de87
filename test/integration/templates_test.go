package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/agent/sim"
	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score"
)

// hashOf is that of the score of a Deployment.
func hashOf(t testing.TB, d *v1alpha1.Deployment) string {
	t.Helper()
	body, err := score.Canonical(d.Spec.Score.Type, d.Spec.Score.Data.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return score.Hash(body)
}

// Each device gets its own score, and runs it; a device without the label fails alone.
func TestScoreDiffersFromDeviceToDevice(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(map[string]string{"group": "a"})
	one, _ := s.device(sim.Config{Device: "edge-1", Token: token})
	two, _ := s.device(sim.Config{Device: "edge-2", Token: token})
	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Labels["site"] = "plant-1" })
	template := deployment("hello", "a", "${device.name} at ${device.labels.site} ${device.annotations['plc/address']:-none}", "echo ${HOME}")
	s.create(template)
	d := s.aggregate("default", "hello", counts{2, 1, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || e.Device != "edge-2" || !strings.Contains(e.Message, "services[0].args[0]: this device has no device.labels.site") {
		t.Errorf("lastError is %+v", e)
	}
	if e := runs(t, two, "default/hello").Entries[0]; !e.Hold {
		t.Errorf("the device without the label is told %+v", e)
	}
	s.rendered("edge-2", metav1.ConditionFalse, "Deployment default/hello: ", "services[0].args[0]: this device has no device.labels.site")
	if c := s.ofDevice("edge-1", v1alpha1.DeviceScoresRendered); c != nil {
		t.Errorf("the device with the label has %+v", c)
	}
	s.event("edge-2", "RenderingFailed", "this device has no device.labels.site")

	s.editDevice("edge-2", func(d *v1alpha1.Device) { d.Labels["site"] = "plant-2" })
	s.aggregate("default", "hello", counts{2, 2, 0, 0})
	s.rendered("edge-2", metav1.ConditionTrue, "the device has what every Deployment uses of it")
	s.editDevice("edge-2", func(d *v1alpha1.Device) { metav1.SetMetaDataAnnotation(&d.ObjectMeta, "plc/address", "10.0.0.5") })
	for device, arg := range map[*sim.Device]string{one: "edge-1 at plant-1 none", two: "edge-2 at plant-2 10.0.0.5"} {
		eventually(t, "the score of "+device.Config.Device, func() error {
			e := runs(t, device, "default/hello").Entries[0]
			if want := hashOf(t, deployment("hello", "a", arg, "echo ${HOME}")); e.Hash != want || e.Revision != hashOf(t, template) {
				return fmt.Errorf("the manifest says %+v, want hash %s of the revision", e, want)
			}
			return nil
		})
	}
	s.aggregate("default", "hello", counts{2, 2, 0, 0})
}

// rendered waits for condition ScoresRendered of a device.
func (s *server) rendered(device string, status metav1.ConditionStatus, says ...string) {
	s.t.Helper()
	eventually(s.t, "condition ScoresRendered of "+device, func() error {
		c := s.ofDevice(device, v1alpha1.DeviceScoresRendered)
		if c == nil || c.Status != status || slices.ContainsFunc(says, func(text string) bool { return !strings.Contains(c.Message, text) }) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// ofDevice is a condition of a Device, or nil.
func (s *server) ofDevice(device, typ string) *metav1.Condition {
	s.t.Helper()
	d, err := s.client().Devices().Get(s.t.Context(), device, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return meta.FindStatusCondition(d.Status.Conditions, typ)
}

func TestMistakeInAnExpressionIsNotTaken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, err := s.client().Deployments("default").Create(t.Context(), deployment("hello", "a", "${device.lables.site}", "${spring.port}"), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.score.data.services[0].args[0]: ") || !strings.Contains(err.Error(), "spec.score.data.services[0].args[1]: ") {
		t.Errorf("error is %v, want one that names both", err)
	}
}
