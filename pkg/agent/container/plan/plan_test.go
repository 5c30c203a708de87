package plan_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	agentplan "fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ref  = wire.DeploymentRef{Namespace: "shop", Name: "web"}
	hash = wire.Sum([]byte("body")).String()
	now  = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
)

// world applies actions to observed containers, as a runtime would.
type world struct {
	containers []container.Container
	touched    map[string]int // removals by service
	nextID     int
}

func (w *world) apply(actions []plan.Action) {
	for _, a := range actions {
		switch a.Kind {
		case plan.Remove:
			w.touched[a.Container.Service]++
			w.containers = slices.DeleteFunc(w.containers, func(c container.Container) bool { return c.ID == a.Container.ID })
		case plan.Create:
			w.nextID++
			w.containers = append(w.containers, container.Container{
				ID: fmt.Sprint("new-", w.nextID), Name: a.Spec.Name(), Ref: a.Spec.Ref, Service: a.Spec.Service, Hash: a.Spec.Hash,
				State: container.StateRunning, Started: now,
			})
		case plan.Prepare:
			w.nextID++
			w.containers = append(w.containers, container.Container{
				ID: fmt.Sprint("new-", w.nextID), Name: a.Spec.At(container.StageNext).Name(), Ref: a.Spec.Ref, Service: a.Spec.Service, Hash: a.Spec.Hash,
				State: container.StateInitialized, Policy: container.RestartNever,
			})
		case plan.Swap:
			for i := range w.containers {
				switch c := &w.containers[i]; {
				case c.ID == a.Container.ID:
					c.State = container.StateExited
				case c.Name == a.Spec.At(container.StageNext).Name():
					c.State, c.Started = container.StateRunning, now
				}
			}
		case plan.Promote:
			if a.Spare != nil {
				w.touched[a.Spare.Service]++
				w.containers = slices.DeleteFunc(w.containers, func(c container.Container) bool { return c.ID == a.Spare.ID })
			}
			for i := range w.containers {
				if w.containers[i].ID == a.Container.ID {
					w.containers[i].Name = a.Spec.Name()
				}
			}
		case plan.Start:
			for i := range w.containers {
				if w.containers[i].ID == a.Container.ID {
					w.containers[i].State, w.containers[i].Started = container.StateRunning, now
				}
			}
		case plan.Pull, plan.EnsureVolume, plan.RemoveVolume:
		}
	}
}

// drawWorkload draws few names and hashes, so that they meet those of
// drawObserved often.
func drawWorkload(t *rapid.T) *plan.Workload {
	w := &plan.Workload{Ref: ref}
	for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID[string]).Draw(t, "services") {
		w.Services = append(w.Services, container.Spec{
			Ref: ref, Service: name, Image: "localhost/" + name,
			Hash:    rapid.SampledFrom([]string{"1", "2"}).Draw(t, "hash"),
			Restart: rapid.SampledFrom([]container.Restart{container.RestartAlways, container.RestartOnFailure, container.RestartNever}).Draw(t, "restart"),
		})
	}
	return w
}

func drawObserved(t *rapid.T) []container.Container {
	var list []container.Container
	for i := range rapid.IntRange(0, 6).Draw(t, "containers") {
		owner := rapid.SampledFrom([]wire.DeploymentRef{ref, ref, {Namespace: "other", Name: "app"}}).Draw(t, "owner")
		service := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "service")
		c := container.Container{
			ID: fmt.Sprint(i), Name: container.ObjectName(owner, service), Ref: owner, Service: service,
			Hash:     rapid.SampledFrom([]string{"1", "2"}).Draw(t, "hash"),
			State:    rapid.SampledFrom([]container.State{container.StateRunning, container.StateExited, container.StateCreated}).Draw(t, "state"),
			ExitCode: rapid.IntRange(0, 1).Draw(t, "exit code"),
		}
		if c.State != container.StateCreated {
			c.Started, c.Finished = now.Add(-time.Hour), now.Add(-time.Minute)
		}
		if slices.ContainsFunc(list, func(o container.Container) bool { return o.Name == c.Name }) {
			continue // names are unique
		}
		list = append(list, c)
	}
	return list
}

func TestTwoRoundsConverge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorkload(t)
		observed := drawObserved(t)
		wd := &world{containers: slices.Clone(observed), touched: map[string]int{}}
		for range 2 { // the second gives the new containers their names
			actions, _ := plan.Changes(w, wd.containers, now)
			wd.apply(actions)
		}
		if again, _ := plan.Changes(w, wd.containers, now); len(again) > 0 {
			t.Fatalf("a third round has to do %+v", again)
		}
		if state := plan.State(w, ours(wd.containers), now); state.Phase == wire.PhasePending {
			t.Fatalf("converged, but reported as %+v", state)
		}
	})
}

func ours(list []container.Container) []container.Container {
	return slices.DeleteFunc(slices.Clone(list), func(c container.Container) bool { return c.Ref != ref })
}

func TestOnlyWhatChangedIsReplacedOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorkload(t)
		observed := drawObserved(t)
		actions, _ := plan.Changes(w, observed, now)
		for _, a := range actions {
			if a.Kind != plan.Remove {
				continue
			}
			if a.Container.Ref != ref {
				t.Fatalf("the container of %v is removed", a.Container.Ref)
			}
			for _, s := range w.Services {
				if s.Service == a.Container.Service && s.Hash == a.Container.Hash {
					t.Fatalf("service %s is removed although it did not change", s.Service)
				}
			}
		}
	})
}

func TestPullsComeBeforeRemovals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		actions, _ := plan.Changes(drawWorkload(t), drawObserved(t), now)
		if !slices.IsSortedFunc(actions, func(a, b plan.Action) int { return cmp.Compare(stage(a.Kind), stage(b.Kind)) }) {
			t.Fatalf("out of order: %+v", actions)
		}
	})
}

func stage(k plan.Kind) int {
	return map[plan.Kind]int{plan.Pull: 0, plan.EnsureVolume: 1, plan.Remove: 2, plan.Prepare: 3, plan.Swap: 4, plan.Create: 5, plan.Start: 5, plan.Resume: 6}[k]
}

func TestDepartureTouchesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		observed := drawObserved(t)
		retention := rapid.SampledFrom([]wire.VolumeRetention{"", wire.RetainVolumes, wire.DeleteVolumes}).Draw(t, "retention")
		actions := plan.Departure(ref, observed, []string{"shop_web_data"}, retention, nil)
		volumes := 0
		for _, a := range actions {
			switch {
			case a.Kind == plan.RemoveVolume:
				volumes++
			case a.Kind != plan.Remove || a.Container.Ref != ref:
				t.Fatalf("departure does %+v", a)
			}
		}
		if removed := len(actions) - volumes; removed != len(ours(observed)) {
			t.Fatalf("%d of %d containers are removed", removed, len(ours(observed)))
		}
		if (volumes > 0) != (retention == wire.DeleteVolumes) {
			t.Fatalf("%d volumes are removed with retention %q", volumes, retention)
		}
	})
}

func TestStarts(t *testing.T) {
	t.Parallel()
	// ended is a container that ended so often, the last time so long ago.
	ended := func(code, ends int, ago time.Duration) container.Container {
		return container.Container{
			State: container.StateExited, ExitCode: code, Ends: ends, Since: now.Add(-ago), Policy: container.RestartNever,
			// By a clock that was set since.
			Started: now.Add(time.Hour), Finished: now.Add(2 * time.Hour),
		}
	}
	cut := container.Container{State: container.StateExited, Started: now.Add(-time.Hour), Down: true, Since: now, Ends: 9}
	shutDown := ended(143, 0, 0)
	shutDown.Down = true
	looping := container.Container{State: container.StateRunning, Since: now, Policy: container.RestartAlways, PolicyRestarts: 3}
	ours, settled := looping, looping
	ours.Policy, settled.Since = container.RestartNever, now.Add(-time.Hour)
	tests := map[string]struct {
		restart container.Restart
		c       container.Container
		// does is the only action.
		does  string
		again time.Duration
	}{
		"running":              {container.RestartAlways, container.Container{State: container.StateRunning}, "", 0},
		"new":                  {container.RestartNever, container.Container{State: container.StateCreated}, "start", 0},
		"always, ended":        {container.RestartAlways, ended(0, 1, time.Second), "start", 0},
		"always, the pause":    {container.RestartAlways, ended(1, 1, 900*time.Millisecond), "", 100 * time.Millisecond},
		"always, again":        {container.RestartAlways, ended(1, 4, time.Second), "", 7 * time.Second},
		"always, for ever":     {container.RestartAlways, ended(1, 99, time.Second), "", 5*time.Minute - time.Second},
		"always, shut down":    {container.RestartAlways, shutDown, "start", 0},
		"failure, shut down":   {container.RestartOnFailure, shutDown, "start", 0},
		"never, shut down":     {container.RestartNever, shutDown, "", 0},
		"on failure, done":     {container.RestartOnFailure, ended(0, 1, time.Minute), "", 0},
		"on failure, failed":   {container.RestartOnFailure, ended(1, 1, time.Minute), "start", 0},
		"never, failed":        {container.RestartNever, ended(1, 1, time.Minute), "", 0},
		"always, power cut":    {container.RestartAlways, cut, "start", 0},
		"failure, power cut":   {container.RestartOnFailure, cut, "start", 0},
		"never, power cut":     {container.RestartNever, cut, "", 0},
		"paused by hand":       {container.RestartAlways, container.Container{State: "paused"}, "", time.Hour},
		"paused for long":      {container.RestartAlways, container.Container{State: "paused", Stuck: time.Hour}, "pullclearcreate", 0},
		"podman restarts it":   {container.RestartAlways, looping, "stop", 0},
		"podman restarted it":  {container.RestartAlways, settled, "", 0},
		"it was restarted, us": {container.RestartAlways, ours, "", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := container.Spec{Ref: ref, Service: "a", Hash: "1", Restart: tt.restart}
			tt.c.Ref, tt.c.Service, tt.c.Hash, tt.c.Name = ref, "a", "1", spec.Name()
			actions, again := plan.Changes(&plan.Workload{Ref: ref, Services: []container.Spec{spec}}, []container.Container{tt.c}, now)
			does := ""
			for _, a := range actions {
				does += a.Kind.String()
			}
			if does != tt.does || again.IsZero() != (tt.again == 0) || tt.again > 0 && again.Sub(now) != tt.again {
				t.Errorf("actions %q, again after %v", does, again.Sub(now))
			}
		})
	}
}

func claim(name string, running bool, ports ...container.Port) (wire.DeploymentRef, plan.Claim) {
	r := wire.DeploymentRef{Namespace: "n", Name: name}
	return r, plan.Claim{Running: running, Workload: &plan.Workload{Ref: r, Services: []container.Spec{{Ports: ports}}}}
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	tcp := func(ip string) container.Port { return container.Port{HostIP: ip, Host: 80, Protocol: container.TCP} }
	udp := container.Port{Host: 80, Protocol: container.UDP}
	tests := map[string]struct {
		a, b       container.Port
		aRun, bRun bool
		want       string // who fails
	}{
		"first by name":      {tcp(""), tcp(""), false, false, "b"},
		"who runs":           {tcp(""), tcp(""), false, true, "a"},
		"both run":           {tcp(""), tcp(""), true, true, "b"},
		"protocols":          {tcp(""), udp, false, false, ""},
		"addresses":          {tcp("10.0.0.1"), tcp("10.0.0.2"), false, false, ""},
		"address and all":    {tcp("10.0.0.1"), tcp(""), false, false, "b"},
		"address and zeroes": {tcp("10.0.0.1"), tcp("0.0.0.0"), false, false, "b"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			claims := map[wire.DeploymentRef]plan.Claim{}
			ra, ca := claim("a", tt.aRun, tt.a)
			rb, cb := claim("b", tt.bRun, tt.b)
			claims[ra], claims[rb] = ca, cb
			var failed []string
			for r, conflict := range plan.Conflicts(claims) {
				failed = append(failed, r.Name)
				if other := map[string]string{"a": "b", "b": "a"}[r.Name]; conflict.Owner.Name != other || !strings.Contains(conflict.Error(), "80") {
					t.Errorf("%s: %v", r, conflict)
				}
			}
			if got := strings.Join(failed, ","); got != tt.want {
				t.Errorf("%q fails, want %q", got, tt.want)
			}
		})
	}
}

func TestConflictsLeaveNoPortTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		claims := map[wire.DeploymentRef]plan.Claim{}
		for i := range rapid.IntRange(0, 5).Draw(t, "deployments") {
			port := container.Port{Host: rapid.Uint16Range(1, 3).Draw(t, "port"), Protocol: container.TCP}
			r, c := claim(fmt.Sprint("d", i), rapid.Bool().Draw(t, "running"), port)
			claims[r] = c
		}
		owners := map[uint16]wire.DeploymentRef{}
		conflicts := plan.Conflicts(claims)
		for _, r := range slices.SortedFunc(maps.Keys(claims), wire.DeploymentRef.Compare) {
			port := claims[r].Workload.Services[0].Ports[0].Host
			other, taken := owners[port]
			if conflicts[r] != nil {
				continue
			}
			if taken {
				t.Fatalf("%v and %v both have port %d", r, other, port)
			}
			owners[port] = r
		}
	})
}

func TestState(t *testing.T) {
	t.Parallel()
	const minReady, atOnce = 10 * time.Second, time.Duration(-1)
	run := func(mutate func(*container.Container)) []container.Container {
		c := container.Container{
			Ref: ref, Service: "a", Name: "shop_web_a", Hash: "1", Image: "localhost/a", State: container.StateRunning, Policy: container.RestartNever,
			Created: now.Add(-time.Hour), Started: now.Add(-time.Hour), Since: now.Add(-time.Hour),
		}
		if mutate != nil {
			mutate(&c)
		}
		return []container.Container{c}
	}
	// since runs for so long, after so many ends with code 3.
	since := func(ago time.Duration, ends, restarts int) []container.Container {
		return run(func(c *container.Container) {
			c.Since, c.Ends, c.Restarts, c.Last = now.Add(-ago), ends, restarts, container.Exit{Code: 3, Output: "no such host"}
		})
	}
	ended := func(code, ends int) []container.Container {
		return run(func(c *container.Container) {
			c.State, c.ExitCode, c.Ends, c.Restarts, c.Since, c.Finished = container.StateExited, code, ends, ends-1, now, now.Add(-time.Minute)
		})
	}
	outOfMemory := ended(137, 1)
	outOfMemory[0].OutOfMemory = true
	said := ended(3, 5)
	said[0].Last = container.Exit{Code: 3, Output: "boom"}
	tests := map[string]struct {
		restart container.Restart
		c       []container.Container
		err     error
		waiting bool
		phase   wire.Phase
		text    string
		again   time.Duration
	}{
		"running":         {container.RestartAlways, run(nil), nil, false, wire.PhaseRunning, "", 0},
		"not ready yet":   {container.RestartAlways, since(time.Second, 0, 0), nil, false, wire.PhasePending, "", minReady - time.Second},
		"just ready":      {container.RestartAlways, since(minReady, 0, 0), nil, false, wire.PhaseRunning, "", 0},
		"paused":          {container.RestartAlways, run(func(c *container.Container) { c.State = container.StatePaused }), nil, false, wire.PhaseFailed, "service a: is paused on the device, which podman unpause ends: it is made anew once it was paused for an hour", 0},
		"nothing yet":     {container.RestartAlways, nil, nil, false, wire.PhasePending, "", 0},
		"waiting":         {container.RestartAlways, run(nil), nil, true, wire.PhasePending, "", 0},
		"error":           {container.RestartAlways, run(nil), errors.New("no\nimage"), false, wire.PhaseFailed, "no image", 0},
		"done":            {container.RestartNever, ended(0, 1), nil, false, wire.PhaseRunning, "", 0},
		"killed":          {container.RestartNever, ended(137, 1), nil, false, wire.PhaseFailed, "service a: was killed (exit code 137), as happens when it needs more memory than its limit or the device has", 0},
		"out of memory":   {container.RestartNever, outOfMemory, nil, false, wire.PhaseFailed, "service a: was killed, since it needed more memory than its limit or the device has", 0},
		"signal":          {container.RestartNever, ended(139, 1), nil, false, wire.PhaseFailed, "service a: was ended by SIGSEGV (exit code 139)", 0},
		"exit code":       {container.RestartNever, ended(3, 1), nil, false, wire.PhaseFailed, "service a: exited with code 3", 0},
		"output":          {container.RestartAlways, said, nil, false, wire.PhaseFailed, "service a: exited with code 3, 4 restarts, last output: boom", 16 * time.Second},
		"large code":      {container.RestartNever, ended(255, 1), nil, false, wire.PhaseFailed, "service a: exited with code 255", 0},
		"before restart":  {container.RestartAlways, ended(0, 2), nil, false, wire.PhasePending, "", 2 * time.Second},
		"a job":           {container.RestartAlways, ended(0, 3), nil, false, wire.PhaseFailed, "service a: exited with code 0, 2 restarts: if that is its job, set restart to OnFailure or Never", 4 * time.Second},
		"just restarted":  {container.RestartAlways, since(time.Second, 1, 1), nil, false, wire.PhaseFailed, "service a: exited with code 3, 1 restart, last output: no such host", plan.Settle - time.Second},
		"settled again":   {container.RestartAlways, since(plan.Settle, 1, 1), nil, false, wire.PhaseRunning, "", 0},
		"by podman":       {container.RestartAlways, run(func(c *container.Container) { c.PolicyRestarts, c.Restarts, c.Since = 2, 2, now }), nil, false, wire.PhaseFailed, "service a: ended and was restarted, 2 restarts", plan.Settle},
		"cut, never":      {container.RestartNever, run(func(c *container.Container) { c.State, c.Down = container.StateExited, true }), nil, false, wire.PhaseFailed, "service a: was interrupted when the device went down", 0},
		"cut, always":     {container.RestartAlways, run(func(c *container.Container) { c.State, c.Down = container.StateExited, true }), nil, false, wire.PhasePending, "", atOnce},
		"clock set back":  {container.RestartNever, run(func(c *container.Container) { c.State = container.StateExited }), nil, false, wire.PhaseRunning, "", 0},
		"of another hash": {container.RestartAlways, run(func(c *container.Container) { c.Hash = "2" }), nil, false, wire.PhasePending, "", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &plan.Workload{Ref: ref, Services: []container.Spec{{Ref: ref, Service: "a", Hash: "1", Restart: tt.restart}}, MinReady: minReady}
			got, again := agentplan.Report(agentplan.Outcome{Ref: ref, Hash: hash, State: plan.State(w, tt.c, now), Err: tt.err, Waiting: tt.waiting})
			if got.Phase != tt.phase || got.Error != tt.text || again.IsZero() != (tt.again == 0) || !again.IsZero() && again.Sub(now) != max(tt.again, 0) {
				t.Errorf("%s %q, again %v", got.Phase, got.Error, again)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
			if len(tt.c) == 1 && tt.err == nil && got.LastEventAt != tt.c[0].LastEvent() {
				t.Errorf("last event %v, want that of the container", got.LastEventAt)
			}
		})
	}
}

func TestReportIsStableAcrossAgents(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w, observed := drawWorkload(t), ours(drawObserved(t))
		first := plan.State(w, observed, now)
		slices.Reverse(observed)
		second := plan.State(w, observed, now.Add(time.Second))
		first.Again, second.Again = time.Time{}, time.Time{} // not a part of the report
		if diff := gocmp.Diff(first, second); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Other parts of the agent address a service's container by its name: one that
// somebody renamed is replaced, though its content is the same.
func TestContainerOfAnotherNameIsReplaced(t *testing.T) {
	t.Parallel()
	spec := container.Spec{Ref: ref, Service: "a", Image: "localhost/a", Hash: "1", Restart: container.RestartAlways}
	c := container.Container{ID: "1", Name: spec.Name(), Ref: ref, Service: "a", Hash: "1", State: container.StateRunning, Started: now, Policy: container.RestartNever}
	w := &plan.Workload{Ref: ref, Services: []container.Spec{spec}}
	if actions, _ := plan.Changes(w, []container.Container{c}, now); len(actions) > 0 {
		t.Errorf("a container that is right: %v", actions)
	}
	c.Name += "-renamed"
	actions, _ := plan.Changes(w, []container.Container{c}, now)
	var kinds []string
	for _, a := range actions {
		kinds = append(kinds, a.Kind.String())
	}
	if diff := gocmp.Diff([]string{"pull", "remove", "create"}, kinds); diff != "" {
		t.Errorf("a container of another name (-want +got):\n%s", diff)
	}
}
