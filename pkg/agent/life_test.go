package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// on makes a service depend on others.
func on(condition score.DependencyCondition, services ...string) func(*score.Service) {
	return func(s *score.Service) {
		for _, name := range services {
			s.DependsOn = append(s.DependsOn, score.Dependency{Service: name, Condition: condition})
		}
	}
}

// and does several things to a service.
func and(all ...func(*score.Service)) func(*score.Service) {
	return func(s *score.Service) {
		for _, do := range all {
			do(s)
		}
	}
}

func restart(p score.RestartPolicy) func(*score.Service) {
	return func(s *score.Service) { s.Restart = p }
}

// part is what is reported of a service of web.
func (d *device) part(service string) wire.ContainerState {
	all := d.gateway.state(web).Containers
	i := slices.IndexFunc(all, func(c wire.ContainerState) bool { return c.Service == service })
	if i < 0 {
		return wire.ContainerState{}
	}
	return all[i]
}

func (d *device) expectMessage(service, want string) {
	d.t.Helper()
	if got := d.part(service).Message; got != want {
		d.t.Errorf("message of %s is %q, want %q", service, got, want)
	}
}

func TestServicesStartAfterWhatTheyDependOn(t *testing.T) {
	onDevice(t, func(d *device) {
		issue := func(app int) {
			d.gateway.issue("e1", deployments{web: {
				"app":     and(on(score.DependencyHealthy, "db"), on(score.DependencyCompleted, "migrate"), command("app", strings.Repeat("x", app))),
				"db":      ready,
				"migrate": and(on(score.DependencyStarted, "db"), restart(score.RestartOnFailure)),
			}})
		}
		issue(1)
		d.settle()
		d.expectCalls("network shop_web", "create shop_web_db", "start shop_web_db", "create shop_web_migrate", "start shop_web_migrate")
		d.expectPhase(web, wire.PhasePending, "")
		d.expectMessage("app", "waits until service db is healthy")
		if s := d.part("app").State; s != "waiting" {
			t.Errorf("its state is %q", s)
		}
		d.podman.Exit("shop_web_migrate", 0)
		d.settle()
		d.expectCalls()
		d.ports.open.Store(true)
		d.settle()
		d.expectCalls("create shop_web_app", "start shop_web_app")
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectMessage("app", "")
		// A restart of a dependency restarts nothing else.
		d.podman.Exit("shop_web_db", 1)
		d.pass(30 * time.Second)
		d.expectCalls("start shop_web_db")
		// After a power cut they start in this order, too, and what was done is not done again.
		d.ports.open.Store(false)
		d.cut()
		d.expectCalls("start shop_web_db")
		d.expectMessage("app", "waits until service db is healthy")
		d.ports.open.Store(true)
		d.settle()
		d.expectCalls("start shop_web_app")
		// A change of the dependant alone waits for nothing that is there already.
		issue(2)
		d.settle()
		d.settle()
		if calls := d.podman.Calls(); !slices.Contains(calls, "rename shop_web_app") || slices.Contains(calls, "stop shop_web_db") {
			t.Errorf("a change of the dependant: %q", calls)
		}
		// They stop in the reverse order.
		d.gateway.issue("e1", deployments{})
		d.settle()
		d.expectStops("shop_web_app", "shop_web_migrate", "shop_web_db")
	})
}

// TestAnOrderIsNotHeldUp: what a service waited for is noticed as soon as it is there, for each
// of several links.
func TestAnOrderIsNotHeldUp(t *testing.T) {
	onDevice(t, func(d *device) {
		d.ports.open.Store(true)
		after := func(service string) func(*score.Service) { return and(ready, on(score.DependencyHealthy, service)) }
		d.gateway.issue("e1", deployments{web: {"a": ready, "b": after("a"), "c": after("b"), "d": after("c")}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		list, err := d.podman.List(d.t.Context(), web)
		if err != nil || len(list) != 4 {
			d.t.Fatalf("containers are %v: %v", list, err)
		}
		if took := list[3].Started.Sub(list[0].Started); took > 100*time.Millisecond {
			d.t.Errorf("the last service was started %v after the first", took)
		}
	})
}

// cut lets the device lose its power, and starts it again.
func (d *device) cut() {
	d.stop()
	d.podman.Cut()
	d.boot, d.on = d.boot+"+", time.Now().Add(-time.Minute)
	d.start()
}

// expectStops compares the order in which containers are removed.
func (d *device) expectStops(want ...string) {
	d.t.Helper()
	var got []string
	for _, call := range d.podman.Calls() {
		if name, is := strings.CutPrefix(call, "remove "); is {
			got = append(got, name)
		}
	}
	if !slices.Equal(got, want) {
		d.t.Errorf("removed in the order %q, want %q", got, want)
	}
}

// TestADependencyThatChanges: what depends on it goes on until the new version is healthy.
func TestADependencyThatChanges(t *testing.T) {
	onDevice(t, func(d *device) {
		d.ports.open.Store(true)
		issue := func(version string) {
			d.gateway.issue("e1", deployments{web: {"app": and(on(score.DependencyHealthy, "db"), command(version)), "db": and(ready, command(version))}})
		}
		issue("a")
		d.settle()
		d.settle()
		d.podman.Calls()
		d.ports.open.Store(false)
		issue("b")
		d.settle()
		if calls := d.podman.Calls(); slices.ContainsFunc(calls, func(c string) bool { return strings.Contains(c, "_app") }) {
			t.Errorf("before the new dependency was healthy: %q", calls)
		}
		d.expectMessage("app", "waits until service db is healthy")
		d.ports.open.Store(true)
		d.pass(20 * time.Second)
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectNames("shop_web_app", "shop_web_db")
	})
}

func initContainer(name string, words ...string) score.Service {
	return score.Service{Name: name, Image: image, Command: words}
}

func TestInitContainersRunBeforeEachNewSet(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.inits = []score.Service{initContainer("one", "first"), initContainer("two", "second")}
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}})
		d.settle()
		d.expectCalls("network shop_web", "create shop_web_one", "start shop_web_one")
		d.expectPhase(web, wire.PhasePending, "")
		d.expectMessage("front", "waits for init container one")
		d.podman.Exit("shop_web_one", 0)
		d.settle()
		d.expectCalls("create shop_web_two", "start shop_web_two")
		// The power is cut while it runs: it did not complete, and the first one did.
		d.cut()
		d.expectCalls("start shop_web_two")
		d.podman.Exit("shop_web_two", 0)
		d.settle()
		d.expectCallsInAnyOrder("create shop_web_front", "start shop_web_front", "create shop_web_back", "start shop_web_back")
		d.settle()
		// Neither a restart of the agent nor a power cut runs them again, nor a crash, nor a
		// container that somebody removed.
		d.restart()
		d.cut()
		d.podman.Exit("shop_web_front", 1)
		d.pass(time.Minute)
		for _, call := range d.podman.Calls() {
			if strings.HasSuffix(call, "_one") || strings.HasSuffix(call, "_two") {
				t.Errorf("an init container ran again: %s", call)
			}
		}
	})
}

func TestInitContainersOfAnUpdate(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.inits = []score.Service{initContainer("init", "a")}
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Exit("shop_web_init", 0)
		d.settle()
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		// A version that cannot start is found out before anything is initialized for it.
		d.gateway.issue("e1", deployments{web: {"front": command("missing")}})
		d.pass(2 * time.Second)
		d.expectPhase(web, wire.PhaseFailed, "the new version cannot start, and the previous one goes on")
		for _, call := range d.podman.Calls() {
			if call == "start shop_web_init" || call == "stop shop_web_front" {
				t.Errorf("for a version that cannot start: %s", call)
			}
		}
		// The previous one runs while the init container does, and if that fails.
		d.gateway.issue("e1", deployments{web: {"front": command("b")}})
		d.pass(2 * time.Second)
		d.expectState("shop_web_init", container.StateRunning)
		d.expectState("shop_web_front", container.StateRunning)
		d.podman.Says("shop_web_init", "no such table\n")
		d.podman.Exit("shop_web_init", 3)
		d.pass(500 * time.Millisecond)
		d.expectPhase(web, wire.PhaseFailed, "init container init: exited with code 3, last output: no such table")
		d.expectState("shop_web_front", container.StateRunning)
		d.pass(2 * time.Second)
		d.expectState("shop_web_init", container.StateRunning) // tried again
		d.pass(299 * time.Second)
		d.expectPhase(web, wire.PhaseFailed, "init container init: was stopped: it did not end within 300 s, 1 restart")
		d.pass(3 * time.Second)
		d.podman.Exit("shop_web_init", 0)
		d.pass(20 * time.Second)
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectState("shop_web_init", container.StateExited)
		// To change an init container replaces the services.
		d.podman.Calls()
		d.gateway.inits = []score.Service{initContainer("init", "b")}
		d.gateway.issue("e1", deployments{web: {"front": command("b")}})
		d.pass(2 * time.Second)
		d.podman.Exit("shop_web_init", 0)
		d.pass(20 * time.Second)
		if calls := d.podman.Calls(); !slices.Contains(calls, "rename shop_web_front") {
			t.Errorf("another init container: %q", calls)
		}
		// Without one, it goes.
		d.gateway.inits = nil
		d.gateway.issue("e1", deployments{web: {"front": command("b")}})
		d.pass(20 * time.Second)
		d.expectNames("shop_web_front")
	})
}

func (d *device) expectState(name string, want container.State) {
	d.t.Helper()
	list, err := d.podman.List(d.t.Context(), wire.DeploymentRef{})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, c := range list {
		if c.Name == name {
			if c.State != want {
				d.t.Errorf("%s is %s, want %s", name, c.State, want)
			}
			return
		}
	}
	d.t.Errorf("there is no %s", name)
}

func hooks(post, pre *score.Hook) func(*score.Service) {
	return func(s *score.Service) { s.Lifecycle = &score.Lifecycle{PostStart: post, PreStop: pre} }
}

func hook(words ...string) *score.Hook {
	return &score.Hook{Exec: &score.ExecProbe{Command: words}}
}

func TestPostStart(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": hooks(hook("exit", "0"), nil)}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		d.restart() // which does it no second time: the fake would say so
		d.expectCalls()
		d.gateway.issue("e1", deployments{web: {"front": hooks(hook("exit", "7"), nil)}, api: {"front": hooks(hook("hangs"), nil)}})
		d.settle()
		d.expectPhase(api, wire.PhasePending, "")
		d.pass(time.Minute)
		d.expectPhase(web, wire.PhaseFailed, "its postStart hook failed: command exit exited with code 7")
		d.expectPhase(api, wire.PhaseFailed, "service front: was stopped: its postStart hook failed: ")
	})
}

func TestPreStop(t *testing.T) {
	onDevice(t, func(d *device) {
		for _, test := range []struct {
			pre  *score.Hook
			want string
		}{
			{hook("exit", "0"), ""},
			{hook("exit", "3"), "the preStop hook failed: command exit exited with code 3: "},
			{hook("hangs"), "the preStop hook did not end within the grace period of 30s"},
			{&score.Hook{HTTPGet: &score.HTTPProbe{Port: 80}}, "the preStop hook failed: port 80: connection refused"},
		} {
			d.gateway.issue("e1", deployments{web: {"front": hooks(nil, test.pre)}})
			d.pass(time.Minute)
			d.podman.Calls()
			began := time.Now()
			d.gateway.issue("e1", deployments{web: {"front": and(hooks(nil, test.pre), command("another"))}})
			d.pass(time.Second)
			for !slices.Contains(d.podman.Calls(), "start shop_web_front_next") {
				d.pass(time.Second)
				if time.Since(began) > time.Minute {
					t.Fatal("it was not replaced")
				}
			}
			if took := time.Since(began); took > 33*time.Second || strings.Contains(test.want, "grace") != (took > 29*time.Second) {
				t.Errorf("%s: it took %v", test.want, took)
			}
			d.pass(10 * time.Second)
			if got := d.part("front").Message; !strings.HasPrefix(got, test.want) || test.want == "" && got != "" {
				t.Errorf("message is %q, want %q", got, test.want)
			}
		}
	})
}

func cron(text string, how ...func(*score.Schedule)) func(*score.Service) {
	return func(s *score.Service) {
		s.Schedule = &score.Schedule{Cron: text}
		for _, do := range how {
			do(s.Schedule)
		}
	}
}

// results are those of the last runs of the job, the newest first.
func (d *device) results() string {
	var all []string
	for _, r := range d.part("job").Runs {
		all = append(all, r.Result)
	}
	return strings.Join(all, " ")
}

// The bubble's time begins at midnight of 2000-01-01.
func TestAJobOnASchedule(t *testing.T) {
	onDevice(t, func(d *device) {
		issue := func(how ...func(*score.Schedule)) {
			d.gateway.issue("e1", deployments{web: {"job": cron("*/10 * * * *", how...)}})
		}
		issue()
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectCalls()
		d.expectMessage("job", "runs next at 2000-01-01T00:10:00Z")
		d.pass(10 * time.Minute)
		d.expectCalls("create shop_web_job", "start shop_web_job")
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Exit("shop_web_job", 0)
		d.pass(time.Second)
		if got := d.results(); got != "Succeeded" {
			t.Errorf("runs are %s", got)
		}
		d.restart()
		d.expectCalls()
		// A run that fails counts, until one does not.
		d.pass(10 * time.Minute)
		d.expectCalls("remove shop_web_job", "create shop_web_job", "start shop_web_job")
		d.podman.Says("shop_web_job", "no space\n")
		d.podman.Exit("shop_web_job", 2)
		d.pass(time.Second)
		d.expectPhase(web, wire.PhaseFailed, "service job: the last run exited with code 2, last output: no space")
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseFailed, "service job: the last run exited with code 2")
		// The run before still runs.
		d.pass(10 * time.Minute)
		if got := d.results(); got != "Skipped Failed Succeeded" {
			t.Errorf("runs are %s", got)
		}
		d.podman.Exit("shop_web_job", 0)
		d.pass(time.Minute) // what fails is looked at more seldom
		d.expectPhase(web, wire.PhaseRunning, "")
		d.podman.Calls()
		issue(func(s *score.Schedule) { s.ConcurrencyPolicy = score.ConcurrencyReplace })
		d.pass(20 * time.Minute)
		d.expectCalls("remove shop_web_job", "create shop_web_job", "start shop_web_job", "stop shop_web_job", "remove shop_web_job", "create shop_web_job", "start shop_web_job")
		if got := d.results(); !strings.HasPrefix(got, "Replaced Succeeded") {
			t.Errorf("runs are %s", got)
		}
		// A Deployment that leaves runs nothing, and begins anew when it comes back.
		d.gateway.issue("e1", deployments{})
		d.settle()
		d.podman.Calls()
		d.pass(time.Hour)
		d.expectCalls()
		issue(func(s *score.Schedule) { s.MissedRuns = score.MissedRunOnce })
		d.settle()
		d.expectCalls()
		if got := d.results(); got != "" {
			t.Errorf("runs are %s", got)
		}
	})
}

// TestAJobWhoseTimeWasMissed: the device is off for a day.
func TestAJobWhoseTimeWasMissed(t *testing.T) {
	for policy, want := range map[score.MissedRuns][]string{score.MissedSkip: nil, score.MissedRunOnce: {"create shop_web_job", "start shop_web_job"}} {
		t.Run(string(policy), func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"job": cron("0 3 * * *", func(s *score.Schedule) { s.MissedRuns = policy })}})
				d.settle()
				d.stop()
				time.Sleep(24 * time.Hour)
				d.boot, d.on = "second", time.Now().Add(-time.Minute)
				d.start()
				d.expectCalls(want...)
				if policy == score.MissedSkip {
					if got := d.results(); got != "Missed" {
						t.Errorf("runs are %s", got)
					}
					return
				}
				// The power is cut again while it runs: with Never that is the end of the run.
				d.cut()
				d.expectPhase(web, wire.PhaseFailed, "service job: the last run was interrupted when the device went down")
				d.expectCalls()
			})
		})
	}
}

// TestAJobThatDependsOnAService: a run waits for it, and has its time to end.
func TestAJobThatDependsOnAService(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"db": ready, "job": and(cron("@hourly"), on(score.DependencyHealthy, "db"), func(s *score.Service) { s.TimeoutSeconds = seconds(60) })}})
		d.pass(time.Hour)
		d.expectCalls("network shop_web", "create shop_web_db", "start shop_web_db")
		d.expectMessage("job", "waits until service db is healthy")
		d.ports.open.Store(true)
		d.pass(40 * time.Second)
		d.expectCalls("create shop_web_job", "start shop_web_job")
		d.pass(time.Minute)
		d.expectPhase(web, wire.PhaseFailed, "service job: the last run was stopped: it did not end within 60 s")
	})
}
