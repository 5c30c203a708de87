package agent_test

import (
	"errors"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestHealthIsReported(t *testing.T) {
	onDevice(t, func(d *device) {
		d.stop()
		status := wire.ConditionTrue
		var heard error
		d.health = func(_ container.Info, err error) []wire.Condition {
			heard = err
			return []wire.Condition{{Type: wire.ConditionLingerEnabled, Status: status, Reason: "Tested"}}
		}
		d.start()
		if c := d.gateway.condition(wire.ConditionLingerEnabled); c.Status != wire.ConditionTrue {
			t.Errorf("got %+v", c)
		}
		status = wire.ConditionFalse
		d.pass(time.Minute)
		if c := d.gateway.condition(wire.ConditionLingerEnabled); c.Status != wire.ConditionFalse {
			t.Errorf("after a minute: %+v", c)
		}
		status = wire.ConditionTrue
		d.agent.Refresh()
		d.settle()
		if c := d.gateway.condition(wire.ConditionLingerEnabled); c.Status != wire.ConditionTrue {
			t.Errorf("after a refresh: %+v", c)
		}
		if heard != nil {
			t.Errorf("podman answers, but Health heard %v", heard)
		}
		d.podman.SetDown(true)
		d.agent.Refresh()
		d.settle()
		if !errors.Is(heard, container.ErrUnavailable) {
			t.Errorf("podman is away, but Health heard %v", heard)
		}
	})
}
