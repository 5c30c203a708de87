package embedserver_test

import (
	"testing"

	"fleet.nationtech.io/fleet/pkg/embedserver"
)

// The places of all listeners together leave descriptors for the files.
func TestPlacesFitTheDescriptors(t *testing.T) {
	t.Parallel()
	for _, descriptors := range []int{256, 1024, 4096, 20_000, 65_536, 1 << 20} {
		api, bus, enrollment := embedserver.PlacesWithin(descriptors)
		if sum := api.All() + bus.All() + enrollment.All(); sum > descriptors*3/4 && sum > descriptors-1024 {
			t.Errorf("of %d descriptors %d are for connections", descriptors, sum)
		}
		if descriptors >= 1024 && bus.Known < descriptors/3 && bus.Known < 1<<16 {
			t.Errorf("of %d descriptors %d are for devices", descriptors, bus.Known)
		}
		for _, l := range []struct{ all, host int }{{api.Strangers, api.OfHost}, {bus.Strangers, bus.OfHost}, {enrollment.Strangers, enrollment.OfHost}} {
			if l.host > l.all/2 {
				t.Errorf("one host has %d of the %d places for strangers", l.host, l.all)
			}
		}
	}
}
