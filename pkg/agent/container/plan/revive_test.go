package plan_test

import (
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
)

// What can be started at once is what ran and is to run, of a service that has nothing else
// which may run.
func TestRevivals(t *testing.T) {
	t.Parallel()
	made := func(name, hash string, change ...func(*container.Container)) container.Container {
		c := container.Container{
			ID: name, Name: name, Ref: ref, Service: "a", Hash: hash, State: container.StateExited, Since: now.Add(-time.Minute), Started: now.Add(-time.Hour), ExitCode: 1,
			Policy: container.RestartNever,
		}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	const own, next = "shop_web_a", "shop_web_a_next"
	up := func(c *container.Container) { c.State = container.StateRunning }
	unstarted := func(c *container.Container) { c.State, c.Started = container.StateCreated, time.Time{} }
	hangs := func(c *container.Container) { c.State = container.StateStopping }
	loops := func(c *container.Container) { c.Ends = 9 }
	done := func(c *container.Container) { c.ExitCode = 0 }
	tests := map[string]struct {
		restart  container.Restart
		role     container.Role
		observed []container.Container
		want     []string
	}{
		"it is what it should be":        {observed: []container.Container{made(own, "2")}, want: []string{own}},
		"it is to be replaced":           {observed: []container.Container{made(own, "1")}, want: []string{own}},
		"it was made and never ran":      {observed: []container.Container{made(own, "2", unstarted)}, want: []string{own}},
		"the next one never ran":         {observed: []container.Container{made(own, "1"), made(next, "2", unstarted)}, want: []string{own}},
		"the next one ran":               {observed: []container.Container{made(own, "1"), made(next, "2")}, want: []string{next}},
		"it runs":                        {observed: []container.Container{made(own, "1", up)}},
		"the next one runs":              {observed: []container.Container{made(own, "1"), made(next, "2", up)}},
		"the previous one runs":          {observed: []container.Container{made(own, "1", up), made(next, "2")}},
		"something else of it runs":      {observed: []container.Container{made(own, "2"), made("shop_web_a_old", "0", up)}},
		"something else of it may run":   {observed: []container.Container{made(own, "2"), made("shop_web_a_old", "0", hangs)}},
		"it hangs":                       {observed: []container.Container{made(own, "2", hangs)}},
		"it ended too often":             {observed: []container.Container{made(own, "2", loops)}},
		"its job is done":                {restart: container.RestartOnFailure, observed: []container.Container{made(own, "2", done)}},
		"it runs once":                   {restart: container.RestartNever, observed: []container.Container{made(own, "2")}},
		"it runs before the services":    {role: container.RoleInit, observed: []container.Container{made(own, "2")}},
		"it runs when its time has come": {role: container.RoleJob, observed: []container.Container{made(own, "2")}},
		"nothing":                        {},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.restart == "" {
				tt.restart = container.RestartAlways
			}
			w := &plan.Workload{Ref: ref, Services: []container.Spec{{Ref: ref, Service: "a", Image: "localhost/a", Hash: "2", Restart: tt.restart, Role: tt.role}}}
			var got []string
			for _, c := range plan.Revivals(w, tt.observed, now) {
				got = append(got, c.Name)
			}
			if diff := gocmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever is there, no service has two containers that run once they were started.
func TestNoRevivalLeadsToTwo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, observed := drawWorkload(t), ours(drawObserved(t))
		up := map[string]int{}
		for _, c := range observed {
			if c.State == container.StateRunning {
				up[c.Service]++
			}
		}
		for _, c := range plan.Revivals(w, observed, now) {
			if up[c.Service]++; up[c.Service] > 1 {
				t.Fatalf("%d containers of service %s would run", up[c.Service], c.Service)
			}
		}
	})
}
