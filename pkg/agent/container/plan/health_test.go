package plan_test

import (
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// A service is ready when its probes say so, is stopped when they say that it is not well,
// and is tried again after a pause.
func TestHealth(t *testing.T) {
	t.Parallel()
	probe := &container.Probe{TCP: 80}
	const own, next = "shop_web_a", "shop_web_a_next"
	made := func(name string, state container.State, since time.Duration, health container.Health) container.Container {
		return container.Container{
			ID: name, Name: name, Ref: ref, Service: "a", Hash: "2", State: state, Policy: container.RestartNever, Health: health,
			Since: now.Add(-since), HealthSince: now.Add(-since), Started: now.Add(-since), Finished: now.Add(-since), ExitCode: 0,
		}
	}
	running := func(since time.Duration, health container.Health) []container.Container {
		return []container.Container{made(own, container.StateRunning, since, health)}
	}
	unwell := func(restart int, how string) []container.Container {
		c := made(own, container.StateExited, 0, container.Health{})
		c.Ends, c.Restarts, c.Last.Unwell = restart, restart, how
		return []container.Container{c}
	}
	replaced := func(since time.Duration, health container.Health) []container.Container {
		previous := made(own, container.StateExited, since, container.Health{})
		previous.Hash = "1"
		return []container.Container{previous, made(next, container.StateRunning, since, health)}
	}
	checked := running(time.Hour, container.Health{})
	checked[0].HealthCheck = probe
	const liveness = "its liveness probe failed: port 80: refused"
	tests := map[string]struct {
		probes   container.Probes
		restart  container.Restart
		observed []container.Container
		does     string
		again    time.Duration
		phase    wire.Phase
		text     string
	}{
		"not probed yet":                      {container.Probes{Readiness: probe}, "", running(time.Hour, container.Health{}), "", 0, wire.PhasePending, ""},
		"ready":                               {container.Probes{Readiness: probe}, "", running(0, container.Health{Ready: true}), "", 0, wire.PhaseRunning, ""},
		"not ready for a while":               {container.Probes{Readiness: probe}, "", running(59*time.Second, container.Health{Why: "refused"}), "", 0, wire.PhasePending, ""},
		"not ready for long":                  {container.Probes{Readiness: probe}, "", running(time.Minute, container.Health{Why: "refused"}), "", 0, wire.PhaseFailed, "service a: is not ready: refused"},
		"not started":                         {container.Probes{Startup: probe}, "", running(time.Hour, container.Health{}), "", 0, wire.PhasePending, ""},
		"started, and no readiness":           {container.Probes{Startup: probe}, "", running(time.Hour, container.Health{Started: true}), "", 0, wire.PhaseRunning, ""},
		"started, and too young to be ready":  {container.Probes{Startup: probe}, "", running(time.Second, container.Health{Started: true}), "", 0, wire.PhasePending, ""},
		"liveness alone":                      {container.Probes{Liveness: probe}, "", running(time.Hour, container.Health{}), "", 0, wire.PhaseRunning, ""},
		"the image's own":                     {container.Probes{}, "", checked, "", 0, wire.PhasePending, ""},
		"the image's own beside the score's":  {container.Probes{Liveness: probe}, "", checked, "", 0, wire.PhaseRunning, ""},
		"unwell":                              {container.Probes{Liveness: probe}, "", running(time.Hour, container.Health{Unwell: liveness}), "stop", 0, wire.PhaseFailed, "service a: " + liveness},
		"unwell, stopped":                     {container.Probes{Liveness: probe}, "", unwell(1, liveness), "", time.Second, wire.PhaseFailed, "service a: was stopped: " + liveness + ", 1 restart"},
		"unwell, ended with 0, and a job":     {container.Probes{Liveness: probe}, container.RestartOnFailure, unwell(2, liveness), "", 2 * time.Second, wire.PhaseFailed, "service a: was stopped: " + liveness + ", 2 restarts"},
		"unwell, never to be restarted":       {container.Probes{Liveness: probe}, container.RestartNever, unwell(1, liveness), "", 0, wire.PhaseFailed, "service a: was stopped: " + liveness + ", 1 restart"},
		"the next one is not ready yet":       {container.Probes{Readiness: probe}, "", replaced(time.Minute, container.Health{}), "", 9 * time.Minute, wire.PhasePending, ""},
		"the next one is ready":               {container.Probes{Readiness: probe}, "", replaced(time.Second, container.Health{Ready: true}), "promote", 0, wire.PhasePending, ""},
		"the next one is not ready in time":   {container.Probes{Readiness: probe}, "", replaced(10*time.Minute, container.Health{Why: "refused"}), "put back", 0, wire.PhaseFailed, "service a: is not ready: refused"},
		"the next one is unwell":              {container.Probes{Startup: probe}, "", replaced(time.Second, container.Health{Unwell: "its startup probe failed: x"}), "put back", 0, wire.PhaseFailed, "service a: its startup probe failed: x"},
		"the next one was ready, and is well": {container.Probes{Readiness: probe}, "", replaced(time.Hour, container.Health{Ready: true}), "promote", 0, wire.PhasePending, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.restart == "" {
				tt.restart = container.RestartAlways
			}
			w := &plan.Workload{Ref: ref, MinReady: 5 * time.Second, Services: []container.Spec{
				{Ref: ref, Service: "a", Image: "localhost/a", Hash: "2", Restart: tt.restart, Probes: tt.probes},
			}}
			actions, again := plan.Changes(w, tt.observed, now)
			var does []string
			for _, a := range actions {
				does = append(does, a.Kind.String())
			}
			if got := strings.Join(does, " "); got != tt.does || again.IsZero() != (tt.again == 0) || tt.again > 0 && again.Sub(now) != tt.again {
				t.Errorf("%q, again after %v", got, again.Sub(now))
			}
			if s := plan.State(w, tt.observed, now); s.Phase != tt.phase || s.Error != tt.text {
				t.Errorf("it is %s %q, want %s %q", s.Phase, s.Error, tt.phase, tt.text)
			}
		})
	}
}

// A probe that failed while its reason is young is judged again when that is old enough.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	w := &plan.Workload{Ref: ref, Services: []container.Spec{{
		Ref: ref, Service: "a", Hash: "2", Restart: container.RestartAlways, Probes: container.Probes{Readiness: &container.Probe{TCP: 80}},
	}}}
	observed := []container.Container{{
		ID: "a", Name: "shop_web_a", Ref: ref, Service: "a", Hash: "2", State: container.StateRunning, Policy: container.RestartNever,
		Since: now.Add(-time.Hour), HealthSince: now.Add(-10 * time.Second), Health: container.Health{Why: "refused"},
	}}
	s := plan.State(w, observed, now)
	if s.Phase != wire.PhasePending || s.Again.Sub(now) != 50*time.Second {
		t.Errorf("it is %s, again after %v", s.Phase, s.Again.Sub(now))
	}
}
