package assigner_test

import (
	"fmt"
	"slices"
	"testing"

	"fleet.nationtech.io/fleet/pkg/broker/brokertest"
)

// What a device may pull is what its manifest names at present.
func TestImagesOfADevice(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.devices.Add(deviceObject("edge-1", "a"))
	r.devices.Add(deviceObject("edge-2", "b"))
	web := deploymentObject("web", "a")
	web.Spec.Score.Data.Raw = []byte(`{"initContainers":[{"name":"init","image":"localhost/init:1"}],"services":[{"name":"web","image":"localhost/web:1"},{"name":"db","image":"localhost/web:1","env":[{"name":"A","value":"${device.name}"}]}]}`)
	r.deployments.Add(web)
	if names, known := r.Images("edge-1"); known {
		t.Errorf("before manifests are complete, images are %q", names)
	}
	r.startAll()
	r.hold("edge-1", false)
	for device, want := range map[string][]string{"edge-1": {"localhost/init:1", "localhost/web:1"}, "edge-2": nil, "nobody": nil} {
		for range 2 {
			if names, known := r.Images(device); !known || !slices.Equal(names, want) {
				t.Errorf("%s may have %q (%t), want %q", device, names, known, want)
			}
		}
	}
	changed := web.DeepCopy()
	changed.Generation++
	changed.Spec.Score.Data.Raw = []byte(`{"services":[{"name":"web","image":"localhost/web:2"}]}`)
	r.deployments.Modify(changed)
	brokertest.Eventually(t, "the images of the change", func() error {
		if names, _ := r.Images("edge-1"); !slices.Equal(names, []string{"localhost/web:2"}) {
			return fmt.Errorf("they are %q", names)
		}
		return nil
	})
}
