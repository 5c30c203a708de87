package agent_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/score"
)

// What is wanted and what is fetched can be asked for, also after a restart without a
// connection.
func TestActivity(t *testing.T) {
	onDevice(t, func(d *device) {
		expect := func(what string, want driver.Activity) {
			t.Helper()
			if diff := cmp.Diff(want, d.driver.Activity()); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
		}
		front, one := driver.Wanted{Name: of(web, "front"), Image: image}, driver.Wanted{Name: of(api, "one"), Image: image}
		expect("at first", driver.Activity{})
		d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"one": nil}})
		d.settle()
		expect("two run", driver.Activity{Wanted: []driver.Wanted{one, front}})
		d.gateway.setOffline(true)
		d.restart()
		expect("after a restart", driver.Activity{Wanted: []driver.Wanted{one, front}})
		d.gateway.setOffline(false)
		d.podman.PullFunc = func(ctx context.Context, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		}
		const other = "localhost/other:1"
		d.gateway.issue("e1", deployments{web: {"front": nil, "new": func(s *score.Service) { s.Image = other }}})
		d.settle()
		a := d.driver.Activity()
		if len(a.Pulls) != 1 || time.Since(a.Pulls[0].Since) > time.Minute {
			t.Fatalf("pulls %+v", a.Pulls)
		}
		expect("one is new", driver.Activity{
			Wanted: []driver.Wanted{front, {Name: of(web, "new"), Image: other}},
			Pulls:  []driver.Pull{{DeploymentRef: web, Image: other, Since: a.Pulls[0].Since}},
		})
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		expect("and not wanted any more", driver.Activity{Wanted: []driver.Wanted{front}})
	})
}
