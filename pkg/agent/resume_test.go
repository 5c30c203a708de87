package agent_test

import (
	"context"
	"slices"
	"testing"
	"time"
)

// The version that runs starts again after a power cut although the next one cannot be
// pulled.
func TestWhatRunsSurvivesAnUpdateThatCannotBePulled(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		d.podman.PullFunc = func(context.Context, string) error { return errOffline }
		d.gateway.issue("e1", deployments{web: {"front": fromImage("localhost/app:2")}})
		d.pass(time.Minute)
		d.losesPower()
		d.start()
		d.pass(time.Minute)
		d.expectCalls("start shop_web_front")
		d.pass(time.Hour)
		d.expectCalls()
		d.podman.PullFunc = nil
		d.gateway.setOffline(false)
		d.pass(10 * time.Minute)
		d.expectCalls(slices.Concat([]string{"pull localhost/app:2"}, prepared, swapped)...)
	})
}
