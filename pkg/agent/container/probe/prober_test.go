package probe_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/probe"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ref      = wire.DeploymentRef{Namespace: "shop", Name: "web"}
	errDown  = errors.New("refused")
	startup  = &container.Probe{TCP: 1, Period: 2 * time.Second, Timeout: time.Second, Failures: 3}
	liveness = &container.Probe{TCP: 2, Delay: time.Second, Period: 10 * time.Second, Timeout: time.Second, Failures: 2}
	ready    = &container.Probe{TCP: 3, Period: 5 * time.Second, Timeout: time.Second, Successes: 2, Failures: 2}
)

// service answers probes by the time since it started.
type service struct {
	answer func(p *container.Probe, at time.Duration) error
	began  time.Time

	mu       sync.Mutex
	attempts []string
}

func (s *service) Check(ctx context.Context, _ *probe.Target, p *container.Probe) error {
	at := time.Since(s.began)
	s.mu.Lock()
	s.attempts = append(s.attempts, fmt.Sprintf("%d at %s", p.TCP, at))
	s.mu.Unlock()
	err := s.answer(p, at)
	if errors.Is(err, context.DeadlineExceeded) {
		<-ctx.Done()
	}
	return err
}

// watch probes for a time and returns what was found out, with when.
func watch(t *testing.T, probes container.Probes, before container.Health, long time.Duration, answer func(p *container.Probe, at time.Duration) error) (found, attempts []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &service{answer: answer, began: time.Now()}
		var mu sync.Mutex
		p := probe.New(s, func(target *probe.Target, h container.Health) {
			mu.Lock()
			defer mu.Unlock()
			found = append(found, fmt.Sprintf("%s %s started=%t ready=%t %s%s", time.Since(s.began), target.ID, h.Started, h.Ready, h.Why, h.Unwell))
		}, slog.New(slog.NewTextHandler(t.Output(), nil)))
		p.Watch(ref, []probe.Target{{Ref: ref, ID: "a", Run: s.began, Since: s.began, Health: before, Probes: probes}})
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		p.Run(ctx)
		attempts = slices.Clone(s.attempts)
	})
	return found, attempts
}

func never(*container.Probe, time.Duration) error { return errDown }

func TestStartupComesFirst(t *testing.T) {
	t.Parallel()
	found, attempts := watch(t, container.Probes{Startup: startup, Liveness: liveness, Readiness: ready}, container.Health{}, 12*time.Second, func(_ *container.Probe, at time.Duration) error {
		if at < 3*time.Second {
			return errDown
		}
		return nil
	})
	if diff := cmp.Diff([]string{"4s a started=true ready=false ", "8.5s a started=true ready=true "}, found); diff != "" {
		t.Error(diff)
	}
	slices.Sort(attempts)
	if diff := cmp.Diff([]string{"1 at 0s", "1 at 2s", "1 at 4s", "2 at 4s", "3 at 4s", "3 at 8.5s"}, attempts); diff != "" {
		t.Error(diff)
	}
}

func TestStartupThatFails(t *testing.T) {
	t.Parallel()
	found, attempts := watch(t, container.Probes{Startup: startup, Readiness: ready}, container.Health{}, time.Minute, never)
	if diff := cmp.Diff([]string{"4s a started=false ready=false its startup probe failed: refused"}, found); diff != "" {
		t.Error(diff)
	}
	if len(attempts) != 3 {
		t.Errorf("attempts: %v", attempts)
	}
}

func TestLivenessFailsAfterItsThreshold(t *testing.T) {
	t.Parallel()
	attempt := 0
	found, attempts := watch(t, container.Probes{Liveness: liveness}, container.Health{}, time.Hour, func(_ *container.Probe, at time.Duration) error {
		switch attempt++; attempt {
		case 1, 3, 5: // one at a time is nothing
			return errDown
		}
		if at > time.Minute {
			return context.DeadlineExceeded // it hangs, which takes a second each time
		}
		return nil
	})
	if diff := cmp.Diff([]string{"1m22s a started=false ready=false its liveness probe failed: no answer within 1s"}, found); diff != "" {
		t.Error(diff)
	}
	if len(attempts) != 9 {
		t.Errorf("attempts: %v", attempts)
	}
}

func TestReadinessComesAndGoes(t *testing.T) {
	t.Parallel()
	found, _ := watch(t, container.Probes{Readiness: ready}, container.Health{}, 59*time.Second, func(_ *container.Probe, at time.Duration) error {
		switch {
		case at >= 20*time.Second && at < 40*time.Second:
			return fmt.Errorf("refused at %s", at)
		case at == 10*time.Second:
			return errDown // one does not count
		}
		return nil
	})
	want := []string{
		"5s a started=false ready=true ",
		"25s a started=false ready=false its readiness probe failed: refused at 25s",
		"35s a started=false ready=false its readiness probe failed: refused at 35s",
		"45s a started=false ready=true ",
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}

// What a probe cannot find out changes nothing that is known, restarts nothing, and says so
// of what is not ready.
func TestUnknownIsNoFailure(t *testing.T) {
	t.Parallel()
	unknown := func(*container.Probe, time.Duration) error { return fmt.Errorf("%w: no helper", probe.ErrUnknown) }
	probes := container.Probes{Liveness: liveness, Readiness: ready}
	if found, _ := watch(t, probes, container.Health{Ready: true}, time.Hour, unknown); found != nil {
		t.Errorf("a service that was ready: %v", found)
	}
	found, _ := watch(t, probes, container.Health{}, time.Hour, unknown)
	if diff := cmp.Diff([]string{"0s a started=false ready=false cannot be probed: no helper"}, found); diff != "" {
		t.Error(diff)
	}
	probes.Startup = startup
	found, _ = watch(t, probes, container.Health{}, time.Hour, unknown)
	if diff := cmp.Diff([]string{"0s a started=false ready=false cannot be probed: no helper"}, found); diff != "" {
		t.Error(diff)
	}
}

// A restart of the agent makes no service unready, and asks for no startup again.
func TestKnownHealthIsKept(t *testing.T) {
	t.Parallel()
	found, attempts := watch(t, container.Probes{Startup: startup, Readiness: ready}, container.Health{Started: true, Ready: true}, time.Minute, func(_ *container.Probe, at time.Duration) error {
		if at < 3*time.Second {
			return errDown
		}
		return nil
	})
	if found != nil || attempts[0] != "3 at 0s" {
		t.Errorf("found %v by %v", found, attempts)
	}
}

func TestAHealthCheckIsTriedOftenUntilItSucceeds(t *testing.T) {
	t.Parallel()
	check := &container.Probe{TCP: 4, Period: 30 * time.Second, Until: 5 * time.Second, Timeout: time.Second, Failures: 3}
	_, attempts := watch(t, container.Probes{Readiness: check}, container.Health{}, time.Minute, func(_ *container.Probe, at time.Duration) error {
		if at < 8*time.Second {
			return errDown
		}
		return nil
	})
	if diff := cmp.Diff([]string{"4 at 0s", "4 at 5s", "4 at 10s", "4 at 37s"}, attempts); diff != "" {
		t.Error(diff)
	}
}

func TestWatchEndsWhatIsNotWatchedAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		attempts := map[string]int{}
		checker := checkerFunc(func(_ context.Context, target *probe.Target, p *container.Probe) error {
			mu.Lock()
			defer mu.Unlock()
			attempts[fmt.Sprint(target.ID, p.TCP)]++
			return nil
		})
		p := probe.New(checker, func(*probe.Target, container.Health) {}, slog.New(slog.DiscardHandler))
		target := func(id string, run time.Time, readiness *container.Probe) probe.Target {
			return probe.Target{Ref: ref, ID: id, Run: run, Since: began, Probes: container.Probes{Readiness: readiness}}
		}
		counted := func(long time.Duration) map[string]int {
			time.Sleep(long)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			now := attempts
			attempts = map[string]int{}
			return now
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		synctest.Wait()
		same := *ready // equal, and another pointer
		p.Watch(ref, []probe.Target{target("a", began, ready), target("b", began, ready)})
		if diff := cmp.Diff(map[string]int{"a3": 3, "b3": 3}, counted(11*time.Second)); diff != "" {
			t.Errorf("two: %s", diff)
		}
		p.Watch(ref, []probe.Target{target("a", began, &same)})
		if diff := cmp.Diff(map[string]int{"a3": 2}, counted(10*time.Second)); diff != "" {
			t.Errorf("one is gone, the other goes on: %s", diff)
		}
		p.Watch(ref, []probe.Target{target("a", began.Add(time.Second), ready)})
		if diff := cmp.Diff(map[string]int{"a3": 2}, counted(8*time.Second)); diff != "" {
			t.Errorf("another run: %s", diff)
		}
		p.Watch(ref, []probe.Target{target("a", began.Add(time.Second), liveness)})
		if diff := cmp.Diff(map[string]int{"a2": 1}, counted(8*time.Second)); diff != "" {
			t.Errorf("another probe: %s", diff)
		}
		p.Watch(ref, nil)
		if diff := cmp.Diff(map[string]int{}, counted(time.Hour)); diff != "" {
			t.Errorf("none: %s", diff)
		}
		cancel()
		<-done
	})
}

type checkerFunc func(context.Context, *probe.Target, *container.Probe) error

func (f checkerFunc) Check(ctx context.Context, t *probe.Target, p *container.Probe) error {
	return f(ctx, t, p)
}

// Attempts that succeed come together after some periods, none of them later than it is due.
func TestAttemptsComeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		attempts := map[string][]time.Time{}
		checker := checkerFunc(func(_ context.Context, target *probe.Target, _ *container.Probe) error {
			mu.Lock()
			defer mu.Unlock()
			attempts[target.ID] = append(attempts[target.ID], time.Now())
			return nil
		})
		p := probe.New(checker, func(*probe.Target, container.Health) {}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		var targets []probe.Target
		for i, id := range []string{"a", "b", "c", "d"} {
			since := began.Add(time.Duration(i) * 2300 * time.Millisecond)
			targets = append(targets, probe.Target{Ref: ref, ID: id, Run: since, Since: since, Probes: container.Probes{Readiness: liveness}})
		}
		p.Watch(ref, targets)
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		cancel()
		<-done
		for id, times := range attempts {
			for i := range times[1:] {
				if pause := times[i+1].Sub(times[i]); pause > liveness.Period || pause < liveness.Period*9/10 {
					t.Errorf("%s: %s between two attempts", id, pause)
				}
			}
			if last, others := times[len(times)-1], attempts["a"]; !last.Equal(others[len(others)-1]) {
				t.Errorf("%s is attempted at %s, another at %s", id, last.Sub(began), others[len(others)-1].Sub(began))
			}
		}
	})
}
