package assigner

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/score/template"
)

// Every field of the inventory that package template knows has a value.
func TestValuesOfADevice(t *testing.T) {
	t.Parallel()
	values := deviceValues(&v1alpha1.Device{
		ObjectMeta: metav1.ObjectMeta{Name: "edge-1", Annotations: map[string]string{"plc/address": "10.0.0.5"}},
		Spec: v1alpha1.DeviceSpec{Inventory: &v1alpha1.Inventory{
			Hostname: "h", Arch: "arm64", OS: "debian", OSVersion: "13", CPUCores: 4, MemoryMiB: 512, Addresses: []string{"10.0.0.9", "10.0.0.8"},
		}},
	})
	want := map[string]string{"hostname": "h", "arch": "arm64", "os": "debian", "osVersion": "13", "cpuCores": "4", "memoryMiB": "512", "address": "10.0.0.9"}
	for _, key := range template.InventoryFields() {
		if value, has := values(template.Source{Kind: template.Inventory, Key: key}); !has || value != want[key] {
			t.Errorf("%s is %q, %v", key, value, has)
		}
	}
	if value, has := values(template.Source{Kind: template.Annotations, Key: "plc/address"}); !has || value != "10.0.0.5" {
		t.Errorf("the annotation is %q, %v", value, has)
	}
	empty := deviceValues(&v1alpha1.Device{})
	for _, key := range template.InventoryFields() {
		if _, has := empty(template.Source{Kind: template.Inventory, Key: key}); has {
			t.Errorf("a device without an inventory has %s", key)
		}
	}
}
