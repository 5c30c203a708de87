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
			for _, a := range plan.Revivals(w, tt.observed, now) {
				got = append(got, a.Container.Name)
			}
			if diff := gocmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is started finds its networks and its secrets again, and those that only a new container
// would need are left for later.
func TestRevivalsBringWhatTheyNeed(t *testing.T) {
	t.Parallel()
	ended := func(service, hash string) container.Container {
		return container.Container{
			ID: service, Name: "shop_web_" + service, Ref: ref, Service: service, Hash: hash, State: container.StateExited, Since: now.Add(-time.Minute), Started: now.Add(-time.Hour), ExitCode: 1,
			Policy: container.RestartNever,
		}
	}
	spec := func(service string) container.Spec {
		return container.Spec{Ref: ref, Service: service, Image: "localhost/a", Hash: "2", Restart: container.RestartAlways, Secrets: map[string][]byte{"of-" + service: []byte("x")}}
	}
	w := &plan.Workload{Ref: ref, Services: []container.Spec{spec("a"), spec("b"), spec("c")}, Networks: []container.Network{{Name: "n"}}}
	says := func(observed ...container.Container) (got []string) {
		for _, a := range plan.Revivals(w, observed, now) {
			got = append(got, a.Kind.String()+" "+a.Secret+a.Container.Service)
		}
		return got
	}
	if diff := gocmp.Diff([]string{"ensure network ", "ensure secret of-a", "start a", "resume b"}, says(ended("a", "2"), ended("b", "1"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := says(); got != nil {
		t.Errorf("with nothing to start: %v", got)
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
		for _, a := range plan.Revivals(w, observed, now) {
			if service := a.Container.Service; a.Kind == plan.Start || a.Kind == plan.Resume {
				if up[service]++; up[service] > 1 {
					t.Fatalf("%d containers of service %s would run", up[service], service)
				}
			}
		}
	})
}
