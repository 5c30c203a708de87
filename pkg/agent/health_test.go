package agent_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestHealthIsReported(t *testing.T) {
	onDevice(t, func(d *device) {
		d.stop()
		var linger, away atomic.Bool
		linger.Store(true)
		d.health = func(_ container.Info, err error) []wire.Condition {
			away.Store(errors.Is(err, container.ErrUnavailable))
			c := wire.Condition{Type: wire.ConditionLingerEnabled, Status: wire.ConditionFalse, Reason: "Tested"}
			if linger.Load() {
				c.Status = wire.ConditionTrue
			}
			return []wire.Condition{c}
		}
		d.start()
		if c := d.gateway.condition(wire.ConditionLingerEnabled); c.Status != wire.ConditionTrue {
			t.Errorf("got %+v", c)
		}
		linger.Store(false)
		d.pass(time.Minute)
		if c := d.gateway.condition(wire.ConditionLingerEnabled); c.Status != wire.ConditionFalse {
			t.Errorf("after a minute: %+v", c)
		}
		linger.Store(true)
		d.agent.Refresh()
		d.settle()
		if c := d.gateway.condition(wire.ConditionLingerEnabled); c.Status != wire.ConditionTrue {
			t.Errorf("after a refresh: %+v", c)
		}
		if away.Load() {
			t.Error("podman answers, but Health hears that it is away")
		}
		d.podman.SetDown(true)
		d.agent.Refresh()
		d.settle()
		if !away.Load() {
			t.Error("podman is away, but Health does not hear of it")
		}
	})
}
