// Package workloadtest has the conformance suite that every workload.Driver
// passes, and a driver that does without podman. It is for tests only.
package workloadtest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	// patience bounds every wait of the suite: podman takes up to ten seconds to
	// stop a container.
	patience     = time.Minute
	pollInterval = 50 * time.Millisecond
)

// Subject is a driver under test.
type Subject struct {
	// New returns the driver as an agent has it that was just started: it knows of
	// the device only what is there.
	New func() workload.Driver
	// Score is a score of one of the driver's types. Each version asks for something
	// else.
	Score func(version int) wire.Score
	// ScoreOf is in the place of Score where two Deployments cannot have the same one.
	ScoreOf func(ref wire.DeploymentRef, version int) wire.Score
	// Bad is one that asks for nothing that there is.
	Bad wire.Score
	// Break takes away what runs of a Deployment, behind the driver's back.
	Break func(t *testing.T, ref wire.DeploymentRef)
	// Shared: there may be workloads of others on the device, so nothing is wiped.
	Shared bool
}

// Conformance checks that a driver keeps the promises of workload.Driver. It
// leaves nothing behind.
func Conformance(t *testing.T, s Subject) {
	t.Helper()
	tests := map[string]func(*testing.T, Subject){
		"about":                       testAbout,
		"bad scores":                  testBadScores,
		"life":                        testLife,
		"an agent that is replaced":   testReplacedAgent,
		"a new version":               testNewVersion,
		"halted":                      testHalt,
		"restarted":                   testRestart,
		"broken":                      testBreak,
		"removed":                     testRemove,
		"removed, and others go on":   testRemoveOne,
		"what is there is seen":       testReady,
		"changes are seen":            testWatch,
		"a context that ended before": testEnded,
	}
	if !s.Shared {
		tests["wiped"] = testWipe
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// hand is a driver and a Deployment in its hands.
type hand struct {
	Subject

	t      *testing.T
	driver workload.Driver
	ref    wire.DeploymentRef
}

func (s *Subject) scoreOf(ref wire.DeploymentRef, version int) wire.Score {
	if s.ScoreOf != nil {
		return s.ScoreOf(ref, version)
	}
	return s.Score(version)
}

// hold begins a test with a Deployment of its own, which is removed at the end.
func (s Subject) hold(t *testing.T, name string) *hand {
	t.Helper()
	h := &hand{Subject: s, t: t, driver: s.New(), ref: wire.DeploymentRef{Namespace: "conformance", Name: name}}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.leave(ctx); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return h
}

func (h *hand) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *hand) observe() workload.Instance {
	h.t.Helper()
	i, err := h.driver.Observe(h.t.Context(), h.ref)
	h.must(err)
	return i
}

// workload is what a version asks for, with its Secrets, of which it has none.
func (h *hand) workload(version int) workload.Workload {
	h.t.Helper()
	score := h.scoreOf(h.ref, version)
	w, err := h.driver.Parse(h.ref, score.Type, score.Data)
	h.must(err)
	w, err = w.WithSecrets(workload.Contents{})
	h.must(err)
	return w
}

// apply brings the Deployment to a version and returns how many steps it took.
func (h *hand) apply(version int, renewed bool) int {
	h.t.Helper()
	todo, err := h.observe().Plan(h.t.Context(), h.workload(version), renewed)
	h.must(err)
	if !slices.IsSortedFunc(todo.Steps, func(a, b workload.Step) int { return order(a.Kind) - order(b.Kind) }) {
		h.t.Error("something is fetched after a change")
	}
	h.must(take(h.t.Context(), todo.Steps))
	return len(todo.Steps)
}

// order is that of Plan.Steps.
func order(k workload.Kind) int {
	if k == workload.Fetch {
		return 0
	}
	return 1
}

func take(ctx context.Context, steps []workload.Step) error {
	for _, s := range steps {
		if s.Name == "" {
			return errors.New("a step has no name")
		}
		if err := s.Do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leave removes the Deployment with its data.
func (h *hand) leave(ctx context.Context) error {
	i, err := h.driver.Observe(ctx, h.ref)
	if err != nil {
		return err
	}
	steps, err := i.Remove(ctx, wire.DeleteVolumes)
	return errors.Join(err, take(ctx, steps))
}

// awaits waits until the Deployment is in a phase.
func (h *hand) awaits(version int, phase wire.Phase) {
	h.t.Helper()
	w := h.workload(version)
	wait.For(h.t, "phase "+string(phase), patience, pollInterval, func() error {
		if s := h.observe().State(w, time.Now()); s.Phase != phase {
			return errors.New(string(s.Phase) + " " + s.Error)
		}
		return nil
	})
}

func testAbout(t *testing.T, s Subject) {
	about := s.New().About()
	if about.Name == "" || len(about.Types) == 0 {
		t.Errorf("it is %+v", about)
	}
	for _, scoreType := range about.Types {
		if len(wire.ParseCapabilities([]string{string(wire.CanRun(scoreType))})) == 0 {
			t.Errorf("no agent can say that it runs scores of type %q", scoreType)
		}
	}
	if c := about.Condition; c.Type != "" && (!slices.Contains(wire.DeviceConditions, c.Type) || c.Ready == "" || c.Unavailable == "") {
		t.Errorf("no Device shows the condition %+v", c)
	}
	for _, score := range []wire.Score{s.scoreOf(wire.DeploymentRef{Namespace: "conformance", Name: "about"}, 1), s.Bad} {
		if !slices.Contains(about.Types, score.Type) {
			t.Errorf("%s is tested, but not said to be taken", score.Type)
		}
	}
}

func testBadScores(t *testing.T, s Subject) {
	ref := wire.DeploymentRef{Namespace: "conformance", Name: "bad"}
	for _, data := range []string{string(s.Bad.Data), "", "null", "[]", `{"noSuchField":1}`} {
		if w, err := s.New().Parse(ref, s.Bad.Type, []byte(data)); err == nil {
			t.Errorf("%q asks for %+v", data, w)
		}
	}
}

func testLife(t *testing.T, s Subject) {
	h := s.hold(t, "life")
	if h.observe().Exists() {
		t.Error("there is something before it was made")
	}
	if phase := h.observe().State(h.workload(1), time.Now()).Phase; phase != wire.PhasePending {
		t.Errorf("what is not there is %s", phase)
	}
	if h.apply(1, true) == 0 {
		t.Error("nothing had to be done")
	}
	if !h.observe().Exists() {
		t.Error("there is nothing")
	}
	h.awaits(1, wire.PhaseRunning)
	for _, renewed := range []bool{true, false} {
		if n := h.apply(1, renewed); n > 0 {
			t.Errorf("%d steps lead from where it is to where it is, renewed %t", n, renewed)
		}
	}
	if steps, reason := h.observe().Forbidden(); len(steps) > 0 || reason != nil {
		t.Errorf("what it made itself is forbidden: %v", reason)
	}
	if phase := h.observe().State(nil, time.Now()).Phase; phase != wire.PhaseRunning {
		t.Errorf("without its score it is %s", phase)
	}
}

// testReplacedAgent: an agent that is restarted or upgraded touches nothing, and
// reports the same.
func testReplacedAgent(t *testing.T, s Subject) {
	h := s.hold(t, "replaced")
	h.apply(1, true)
	h.awaits(1, wire.PhaseRunning)
	before := h.observe().State(h.workload(1), time.Now()).LastEvent
	h.driver = s.New()
	if c, ok := h.driver.(workload.Claimant); ok {
		c.Grant(h.workload(1))
	}
	if n := h.apply(1, false); n > 0 {
		t.Errorf("the next agent takes %d steps", n)
	}
	if after := h.observe().State(h.workload(1), time.Now()).LastEvent; !after.Equal(before) {
		t.Errorf("the last event is at %v, of which the agent before said %v", after, before)
	}
}

func testNewVersion(t *testing.T, s Subject) {
	h := s.hold(t, "version")
	h.apply(1, true)
	h.awaits(1, wire.PhaseRunning)
	if phase := h.observe().State(h.workload(2), time.Now()).Phase; phase == wire.PhaseRunning {
		t.Error("one version is taken for another")
	}
	if h.apply(2, true) == 0 {
		t.Error("a new version takes no step")
	}
	wait.For(t, "the new version runs", patience, pollInterval, func() error {
		h.apply(2, false) // a plan may have more to do later
		if s := h.observe().State(h.workload(2), time.Now()); s.Phase != wire.PhaseRunning {
			return errors.New(string(s.Phase) + " " + s.Error)
		}
		return nil
	})
	if n := h.apply(2, false); n > 0 {
		t.Errorf("%d more steps", n)
	}
}

// testRestart: each part ends and begins anew, and is what it was.
func testRestart(t *testing.T, s Subject) {
	h := s.hold(t, "restarted")
	h.apply(1, true)
	h.awaits(1, wire.PhaseRunning)
	asked := []string{"none-such"}
	for _, part := range h.observe().State(h.workload(1), time.Now()).Parts {
		asked = append(asked, part.Service)
	}
	before := h.observe().State(h.workload(1), time.Now()).LastEvent
	steps, without := h.observe().Restart(asked)
	if !slices.Equal(without, []string{"none-such"}) {
		t.Errorf("without %v", without)
	}
	h.must(take(t.Context(), steps))
	h.awaits(1, wire.PhaseRunning)
	if after := h.observe().State(h.workload(1), time.Now()).LastEvent; len(asked) > 1 && !after.After(before) {
		t.Errorf("it last changed at %v, before the restart at %v", after, before)
	}
	if n := h.apply(1, false); n > 0 {
		t.Errorf("%d steps after the restart", n)
	}
}

func testHalt(t *testing.T, s Subject) {
	h := s.hold(t, "halted")
	h.apply(1, true)
	h.awaits(1, wire.PhaseRunning)
	for range 2 {
		h.must(h.observe().Halt(t.Context()))
	}
	if i := h.observe(); !i.Exists() || i.State(nil, time.Now()).Phase == wire.PhaseRunning {
		t.Errorf("it exists: %t, and is %+v", i.Exists(), i.State(nil, time.Now()))
	}
	h.resume(1)
}

func testBreak(t *testing.T, s Subject) {
	h := s.hold(t, "broken")
	h.apply(1, true)
	h.awaits(1, wire.PhaseRunning)
	s.Break(t, h.ref)
	if h.observe().State(h.workload(1), time.Now()).Phase == wire.PhaseRunning {
		t.Error("it runs all the same")
	}
	h.resume(1)
}

// resume plans until the version runs again: a driver may leave that to others for
// a while, see Plan.Again.
func (h *hand) resume(version int) {
	h.t.Helper()
	wait.For(h.t, "it runs again", patience, pollInterval, func() error {
		h.apply(version, false)
		if s := h.observe().State(h.workload(version), time.Now()); s.Phase != wire.PhaseRunning {
			return errors.New(string(s.Phase) + " " + s.Error)
		}
		return nil
	})
}

func testRemove(t *testing.T, s Subject) {
	h := s.hold(t, "removed")
	for _, retention := range []wire.VolumeRetention{wire.RetainVolumes, wire.DeleteVolumes} {
		h.apply(1, true)
		for range 2 { // a second time there is nothing to remove
			steps, err := h.observe().Remove(t.Context(), retention)
			h.must(err)
			h.must(take(t.Context(), steps))
			if h.observe().Exists() {
				t.Errorf("it is there, with retention %q", retention)
			}
		}
	}
}

func testRemoveOne(t *testing.T, s Subject) {
	one, other := s.hold(t, "one"), s.hold(t, "one-more")
	one.apply(1, true)
	other.apply(1, true)
	other.awaits(1, wire.PhaseRunning)
	one.must(one.leave(t.Context()))
	if n := other.apply(1, false); n > 0 || one.observe().Exists() {
		t.Errorf("%d steps for the other, and the one exists: %t", n, one.observe().Exists())
	}
}

func testReady(t *testing.T, s Subject) {
	h := s.hold(t, "ready")
	for _, there := range []bool{false, true} {
		look, err := h.driver.Ready(t.Context())
		h.must(err)
		if slices.Contains(look.Deployments, h.ref) != there {
			t.Errorf("seen are %v", look.Deployments)
		}
		h.apply(1, true)
	}
}

func testWatch(t *testing.T, s Subject) {
	h := s.hold(t, "watched")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	// Room for more changes than there will be: Watch must not block.
	changes := make(chan wire.DeploymentRef, 1000)
	go func() {
		ended <- h.driver.Watch(ctx, func() { close(ready) }, func(ref wire.DeploymentRef) { changes <- ref })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	h.apply(1, true)
	for seen := false; !seen; {
		select {
		case ref := <-changes: // others may use the same device
			seen = ref == h.ref
		case <-ctx.Done():
			t.Fatal("no change was seen")
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}

// testEnded: whatever a driver returns, it returns.
func testEnded(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d, ref := s.New(), wire.DeploymentRef{Namespace: "conformance", Name: "ended"}
	_, _ = d.Observe(ctx, ref)
	_, _ = d.Ready(ctx)
	if err := d.Watch(ctx, func() {}, func(wire.DeploymentRef) {}); err == nil {
		t.Error("a watch ends without a reason")
	}
}

func testWipe(t *testing.T, s Subject) {
	one, other := s.hold(t, "wiped"), s.hold(t, "wiped-too")
	one.apply(1, true)
	other.apply(2, true)
	other.must(other.observe().Halt(t.Context()))
	for range 2 { // a second time there is nothing to wipe
		one.must(one.driver.Wipe(t.Context()))
		look, err := one.driver.Ready(t.Context())
		one.must(err)
		if one.observe().Exists() || other.observe().Exists() || len(look.Deployments) > 0 {
			t.Errorf("there are %v", look.Deployments)
		}
	}
}
