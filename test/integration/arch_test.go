package integration_test

import (
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// reports lets a device say which architecture it has.
func (c *connection) reports(arch string) {
	c.h.s.t.Helper()
	if a := send[wire.Ack](c, wire.KindInfo, wire.DeviceInfo{Inventory: wire.Inventory{Hostname: c.h.name, Arch: arch}}); a.Error != nil {
		c.h.s.t.Fatal(a.Error)
	}
}

// arch waits until the label and the inventory of a device name architectures.
func (s *server) arch(name, label, inventory string) {
	s.t.Helper()
	eventually(s.t, "the architecture of "+name, func() error {
		d, err := s.client().Devices().Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Spec.Inventory == nil || d.Spec.Inventory.Arch != inventory || d.Labels[v1alpha1.LabelArch] != label {
			return fmt.Errorf("it is %q, inventory %+v", d.Labels[v1alpha1.LabelArch], d.Spec.Inventory)
		}
		return nil
	})
}

// A stolen device does not get the Deployments of another architecture by
// claiming it. The operator may say otherwise, and a new machine may have another.
func TestArchitectureIsBound(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	token := s.token(nil)
	h := s.holder("edge-1").enroll(token)
	forARM := deployment("arm", "")
	forARM.Spec.TargetSelector = metav1.LabelSelector{MatchLabels: map[string]string{v1alpha1.LabelArch: "arm64"}}
	s.create(forARM)
	c := h.connect()
	c.settle()
	c.reports("amd64")
	s.arch("edge-1", "amd64", "amd64")
	c.reports("arm64")
	s.event("edge-1", "ArchitectureChanged", "another architecture")
	s.arch("edge-1", "amd64", "arm64")
	c.reports("")
	s.arch("edge-1", "amd64", "")
	c.reports("arm64")
	s.arch("edge-1", "amd64", "arm64")
	s.aggregate("default", "arm", counts{})

	label := func(value string) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%s}}}`, v1alpha1.LabelArch, value)
		if _, err := s.client().Devices().Patch(t.Context(), "edge-1", types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "kubectl-label"}); err != nil {
			t.Fatal(err)
		}
	}
	label(`"riscv64"`)
	c.reports("amd64")
	s.arch("edge-1", "riscv64", "amd64")
	c.reports("arm64")
	s.arch("edge-1", "riscv64", "arm64")
	// Whoever removes the label accepts what the device says now.
	label("null")
	s.arch("edge-1", "arm64", "arm64")
	s.stop()
	s.start()
	s.arch("edge-1", "arm64", "arm64")

	replacing := s.token(nil)
	s.editToken(strings.Split(replacing, ".")[2], func(o *v1alpha1.EnrollmentToken) { o.Spec.Replaces = "edge-1" })
	next := s.holder("edge-1").enroll(replacing)
	c = next.connect()
	c.settle()
	c.reports("amd64")
	s.arch("edge-1", "amd64", "amd64")
}
