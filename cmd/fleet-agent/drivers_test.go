package main

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// What this agent says that it can do is what its drivers take, and is documented.
func TestCapabilitiesAreThoseOfTheDrivers(t *testing.T) {
	t.Parallel()
	d, err := newDrivers(parts{cfg: config.Default(), log: slog.New(slog.DiscardHandler)}, nil, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	can := d.Capabilities()
	if diff := cmp.Diff([]string{"score/PodmanV0"}, can); diff != "" {
		t.Error(diff)
	}
	for _, name := range can {
		if !slices.ContainsFunc(wire.Capabilities, func(c wire.CapabilityInfo) bool { return string(c.Capability) == name }) {
			t.Errorf("%s is not documented", name)
		}
	}
}
