package plan_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// The previous container of a service goes on until the next one is known to start, and
// is kept until that is ready.
func TestReplacement(t *testing.T) {
	t.Parallel()
	const minReady = 5 * time.Second
	made := func(name, hash string, state container.State, since time.Duration, ends int) container.Container {
		c := container.Container{
			ID: name, Name: name, Ref: ref, Service: "a", Hash: hash, State: state, Since: now.Add(-since), Ends: ends, ExitCode: min(ends, 1), Policy: container.RestartNever,
		}
		if !c.Unstarted() {
			c.Started = now.Add(-since)
		}
		return c
	}
	const own, next = "shop_web_a", "shop_web_a_next"
	running, exited, created := container.StateRunning, container.StateExited, container.StateCreated
	previous, ended := made(own, "1", running, time.Hour, 0), made(own, "1", exited, time.Minute, 0)
	forgotten := made(own, "1", created, 0, 0)
	forgotten.Started = now.Add(-time.Hour)
	refused := func(until time.Duration) map[string]plan.Refusal {
		return map[string]plan.Refusal{"a": {Hash: "2", Text: "the new version exited with code 1", Until: now.Add(until)}}
	}
	tests := map[string]struct {
		restart  container.Restart
		refused  map[string]plan.Refusal
		observed []container.Container
		does     string
		again    time.Duration
		phase    wire.Phase
	}{
		"first":                       {"", nil, nil, "pull create", 0, wire.PhasePending},
		"change":                      {"", nil, []container.Container{previous}, "pull prepare swap", 0, wire.PhasePending},
		"change of what ended":        {"", nil, []container.Container{ended}, "pull prepare swap resume", 0, wire.PhasePending},
		"change of what never ran":    {"", nil, []container.Container{made(own, "1", created, 0, 0)}, "pull remove create", 0, wire.PhasePending},
		"change of what was to start": {"", nil, []container.Container{forgotten}, "pull prepare swap resume", 0, wire.PhasePending},
		"change of a job":             {container.RestartNever, nil, []container.Container{previous}, "pull remove create", 0, wire.PhasePending},
		"cut off after prepare":       {"", nil, []container.Container{previous, made(next, "2", created, 0, 0)}, "pull remove prepare swap", 0, wire.PhasePending},
		"cut off between stop, start": {"", nil, []container.Container{ended, made(next, "2", container.StateInitialized, 0, 0)}, "pull remove prepare swap resume", 0, wire.PhasePending},
		"a trial is left":             {"", nil, []container.Container{made(own, "2", running, time.Hour, 0), made("shop_web_a_trial", "2", created, 0, 0)}, "remove", 0, wire.PhaseRunning},
		"not ready yet":               {"", nil, []container.Container{ended, made(next, "2", running, time.Second, 0)}, "", minReady - time.Second, wire.PhasePending},
		"ready":                       {"", nil, []container.Container{ended, made(next, "2", running, minReady, 0)}, "promote", 0, wire.PhasePending},
		"ready, its job is done":      {container.RestartOnFailure, nil, []container.Container{ended, made(next, "2", exited, 0, 0)}, "promote", 0, wire.PhasePending},
		"cut off before the new name": {"", nil, []container.Container{made(next, "2", running, time.Second, 0)}, "promote", 0, wire.PhasePending},
		"the previous one came back":  {"", nil, []container.Container{previous, made(next, "2", running, time.Second, 0)}, "stop", minReady - time.Second, wire.PhasePending},
		"it ended once":               {"", nil, []container.Container{ended, made(next, "2", exited, 0, 1)}, "", time.Second, wire.PhaseFailed},
		"it ends again and again":     {"", nil, []container.Container{ended, made(next, "2", exited, 0, 3)}, "put back", 0, wire.PhaseFailed},
		"it ends, and is the only":    {"", nil, []container.Container{made(own, "2", exited, 0, 3)}, "", 4 * time.Second, wire.PhaseFailed},
		"another change meanwhile":    {"", nil, []container.Container{ended, made(next, "3", running, time.Second, 0)}, "pull remove prepare swap resume", 0, wire.PhasePending},
		"back to the previous":        {"", nil, []container.Container{made(own, "2", exited, time.Minute, 0), made(next, "3", running, time.Second, 0)}, "remove start", 0, wire.PhasePending},
		"refused":                     {"", refused(time.Minute), []container.Container{previous}, "", time.Minute, wire.PhaseFailed},
		"refused, previous is down":   {"", refused(time.Minute), []container.Container{ended}, "start", time.Minute, wire.PhaseFailed},
		"refused, tried again":        {"", refused(0), []container.Container{previous}, "pull prepare swap", 0, wire.PhaseFailed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.restart == "" {
				tt.restart = container.RestartAlways
			}
			w := &plan.Workload{Ref: ref, MinReady: minReady, Refused: tt.refused, Services: []container.Spec{
				{Ref: ref, Service: "a", Image: "localhost/a", Hash: "2", Restart: tt.restart},
			}}
			actions, again := plan.Changes(w, tt.observed, now)
			var does []string
			for _, a := range actions {
				does = append(does, a.Kind.String())
			}
			if got := strings.Join(does, " "); got != tt.does || again.IsZero() != (tt.again == 0) || tt.again > 0 && again.Sub(now) != tt.again {
				t.Errorf("%q, again after %v", got, again.Sub(now))
			}
			s := plan.State(w, tt.observed, now)
			if s.Phase != tt.phase {
				t.Errorf("it is %s %q, want %s", s.Phase, s.Error, tt.phase)
			}
			if len(s.Parts) > 1 {
				t.Errorf("the service is reported %d times", len(s.Parts))
			}
		})
	}
}

// Whatever is there, no plan leads to two running containers of one service, and a
// previous container goes in the same plan as its successor is ready, and not before.
func TestNoPlanLeadsToTwo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorkload(t)
		wd := &world{containers: ours(drawObserved(t)), touched: map[string]int{}}
		for range 3 {
			actions, _ := plan.Changes(w, wd.containers, now)
			wd.apply(actions)
			up := map[string]int{}
			for _, c := range wd.containers {
				if c.State == container.StateRunning {
					up[c.Service]++
				}
			}
			for service, n := range up {
				if n > 1 {
					t.Fatalf("%d containers of service %s run after %+v", n, service, actions)
				}
			}
		}
	})
}
