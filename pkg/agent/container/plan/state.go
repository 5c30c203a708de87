package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Settle is how long a container that ended and was restarted has to run before it
// counts as running again. Until then it is taken for crash-looping.
const Settle = 20 * time.Second

// maxReported bounds the containers in a report: a score has at most as many
// services.
const maxReported = 64

// State judges containers by their workload, which is nil when it is not known.
func State(w *Workload, observed []container.Container, now time.Time) (s workload.State) {
	shown := reported(observed)
	for _, c := range shown[:min(len(shown), maxReported)] {
		s.Parts = append(s.Parts, part(&c))
		if last := c.LastEvent(); last.After(s.LastEvent) {
			s.LastEvent = last
		}
	}
	slices.SortFunc(s.Parts, func(a, b wire.ContainerState) int { return strings.Compare(a.Service, b.Service) })
	if w == nil {
		s.Phase = judgeUnknown(observed)
		return s
	}
	var verdicts map[string]verdict
	s.Phase, s.Error, verdicts, s.Again = judge(w, observed, now)
	s.Parts = complete(w, s.Parts, verdicts)
	return s
}

// complete gives the parts their verdicts, and adds a part for each service that waits and has
// no container yet.
func complete(w *Workload, parts []wire.ContainerState, verdicts map[string]verdict) []wire.ContainerState {
	for i := range w.Services {
		s := &w.Services[i]
		there := slices.ContainsFunc(parts, func(p wire.ContainerState) bool { return p.Service == s.Service })
		if !there && len(parts) < maxReported && verdicts[s.Service].message != "" {
			parts = append(parts, wire.ContainerState{Service: s.Service, State: stateWaiting, Image: s.Image})
		}
	}
	for i := range parts {
		p := &parts[i]
		v := verdicts[p.Service]
		p.Phase, p.Message = v.phase, v.message
		p.Ready = p.Phase == wire.PhaseRunning
		if job, is := w.Runs[p.Service]; is {
			p.Runs = jobRuns(job)
		}
	}
	slices.SortFunc(parts, func(a, b wire.ContainerState) int { return strings.Compare(a.Service, b.Service) })
	return parts
}

// stateWaiting is the state of a service that has no container yet.
const stateWaiting = "waiting"

// verdict is what there is to say of one service.
type verdict struct {
	phase wire.Phase
	// message says what it waits for, or when it runs next; empty for nothing.
	message string
}

// part reports one container.
func part(c *container.Container) wire.ContainerState {
	p := wire.ContainerState{
		Service: c.Service, State: string(c.State), Image: c.Image, Digest: c.Digest, ExitCode: exitCode(c), Restarts: c.Restarts, Since: c.Started,
	}
	if c.Ended() {
		p.Since = c.Finished
	}
	if c.Ended() || c.Restarts > 0 {
		p.LastExit = &wire.ContainerExit{Code: c.Last.Code, OutOfMemory: c.Last.OutOfMemory, Stopped: c.Last.Unwell != ""}
	}
	return p
}

// exitCode is zero for a container that has not ended: podman keeps the code
// of an earlier run.
func exitCode(c *container.Container) int {
	if c.Ended() {
		return c.ExitCode
	}
	return 0
}

// reported are the containers that a report is about: of those of one service the one
// that runs.
func reported(observed []container.Container) (list []container.Container) {
	for _, c := range observed {
		i := slices.IndexFunc(list, func(o container.Container) bool { return o.Ref == c.Ref && o.Service == c.Service })
		switch {
		case i < 0:
			list = append(list, c)
		case before(&c, &list[i]):
			list[i] = c
		}
	}
	return list
}

// before reports whether of two containers of a service the first is reported.
func before(a, b *container.Container) bool {
	if up := a.State == container.StateRunning; up != (b.State == container.StateRunning) {
		return up
	}
	return a.Name < b.Name
}

// judge derives the phase from those of the services: the worst of them counts.
func judge(w *Workload, observed []container.Container, now time.Time) (phase wire.Phase, text string, verdicts map[string]verdict, again time.Time) {
	phase, verdicts = wire.PhaseRunning, make(map[string]verdict, len(w.Services))
	slots, _ := arrange(w, observed)
	v := &view{w: w, slots: slots, now: now}
	for i := range slots {
		s := &slots[i]
		name := s.spec.Service
		of, why, until := s.judge(v)
		message, more := s.message(v)
		again, verdicts[name] = earliest(earliest(again, until), more), verdict{of, message}
		switch {
		case of == wire.PhaseFailed && phase != wire.PhaseFailed:
			if hint := w.Hints[name]; hint != "" && s.serving != nil && ofRights(why) {
				why += "; perhaps because of " + hint
			}
			phase, text = of, s.kind()+" "+name+": "+why
		case of == wire.PhasePending:
			phase = cmp.Or(onlyFailed(phase), of)
		}
	}
	return phase, text, verdicts, again
}

// kind is what a service is called.
func (s *slot) kind() string {
	if s.spec.Role == container.RoleInit {
		return "init container"
	}
	return "service"
}

// message says what a service waits for, when it runs next, or what else is to be known of it.
func (s *slot) message(v *view) (message string, again time.Time) {
	job := v.w.Runs[s.spec.Service]
	switch {
	case s.spec.Role == container.RoleInit:
	case s.spec.Role == container.RoleJob && (!job.Active() || job.Begun):
		message = jobMessage(job)
	case s.serving == nil && !s.waitsForRetry(v):
		message, again = v.waits(s, true)
	case s.serving != nil && s.held(v):
		message, again = v.waits(s, false)
	}
	if message == "" && s.spec.Role == container.RoleJob {
		message = jobMessage(job)
	}
	return cmp.Or(message, v.w.Notes[s.spec.Service]), again
}

// held reports whether a container is not started because its service waits for another.
func (s *slot) held(v *view) bool {
	if !s.serving.Unstarted() && !s.serving.Interrupted() {
		return false
	}
	what, _ := v.waits(s, false)
	return what != ""
}

// judge judges one service.
func (s *slot) judge(v *view) (phase wire.Phase, why string, again time.Time) {
	w, now := v.w, v.now
	cleared := w.Cleared[s.spec.Service]
	switch {
	case s.lacks(w) && (s.serving == nil || s.serving.State != container.StateRunning):
		return wire.PhaseFailed, w.Waiting[s.spec.Service], time.Time{}
	case s.spec.Role == container.RoleInit:
		return s.judgeInit(v)
	case s.spec.Role == container.RoleJob:
		return s.judgeJob(v)
	case s.serving != nil:
		phase, why, again = judgeContainer(w, s.spec, s.serving, now)
		if at, must := startAt(s.spec.Restart, s.serving); must && !s.held(v) {
			if at.Before(now) {
				at = now
			}
			again = earliest(again, at)
		}
		if s.failed(now) {
			again = now // the previous one is put back
		}
		if phase == wire.PhaseRunning && s.serving.Name != s.spec.Name() {
			phase = wire.PhasePending // its place is not its own yet
		}
		if phase == wire.PhasePending && cleared != "" {
			phase, why = wire.PhaseFailed, cleared
		}
		return phase, why, again
	case s.previous != nil && s.refused(w):
		r := w.Refused[s.spec.Service]
		return wire.PhaseFailed, r.Text + "; the previous version runs again, until the next attempt or change", time.Time{}
	}
	return wire.PhasePending, "", time.Time{}
}

func onlyFailed(p wire.Phase) wire.Phase {
	if p == wire.PhaseFailed {
		return p
	}
	return ""
}

// judgeUnknown is for containers whose score is not on the device any more.
func judgeUnknown(observed []container.Container) wire.Phase {
	running := func(c container.Container) bool { return c.State == container.StateRunning }
	if slices.ContainsFunc(observed, running) {
		return wire.PhaseRunning
	}
	return wire.PhasePending
}

// judgeContainer judges one container. One that ended with code 0 and is not
// to be restarted did its job: it counts as running, because its service is in
// the state that the score asks for.
func judgeContainer(w *Workload, spec *container.Spec, c *container.Container, now time.Time) (phase wire.Phase, why string, again time.Time) {
	policy := spec.Restart
	switch {
	case isStuck(c):
		return wire.PhaseFailed, Stuck(c), time.Time{}
	case c.State == container.StateRunning:
		return judgeRunning(w, c.ProbesOf(spec.Probes), c, now)
	case c.State == container.StatePaused:
		return wire.PhaseFailed, "is paused on the device, which podman unpause ends: it is made anew once it was paused for an hour", time.Time{}
	case !c.Ended():
		return wire.PhasePending, "", time.Time{}
	case c.Interrupted() && policy == container.RestartNever:
		return wire.PhaseFailed, "was interrupted when the device went down", time.Time{}
	case c.Interrupted():
		return wire.PhasePending, "", time.Time{}
	case c.ExitCode != 0 || c.Last.Unwell != "":
		return wire.PhaseFailed, exited(last(c), c.Restarts), time.Time{}
	case policy == container.RestartAlways && c.Ends >= tooOften:
		return wire.PhaseFailed, exited(last(c), c.Restarts) + ": if that is its job, set restart to OnFailure or Never", time.Time{}
	case policy == container.RestartAlways:
		return wire.PhasePending, "", time.Time{}
	}
	return wire.PhaseRunning, "", time.Time{}
}

// unready is how long a service may be waited for that is not ready, before that is a
// failure: many take their time to start.
const unready = time.Minute

// judgeRunning judges a container that runs.
func judgeRunning(w *Workload, probes container.Probes, c *container.Container, now time.Time) (phase wire.Phase, why string, again time.Time) {
	settled, ready := c.Since.Add(max(Settle, w.MinReady)), c.Since.Add(w.MinReady)
	switch {
	case c.Health.Unwell != "":
		return wire.PhaseFailed, c.Health.Unwell + restarted(c.Restarts), time.Time{}
	case c.Ends > 0 && now.Before(settled):
		return wire.PhaseFailed, exited(c.Last, c.Restarts), settled
	case c.PolicyRestarts > 0 && now.Before(settled):
		return wire.PhaseFailed, "ended and was restarted" + restarted(c.Restarts), settled
	case !c.Ready(probes):
		return judgeUnready(c, now)
	case probes.Readiness == nil && now.Before(ready):
		return wire.PhasePending, "", ready
	}
	return wire.PhaseRunning, "", time.Time{}
}

// judgeUnready judges a container whose probes do not succeed.
func judgeUnready(c *container.Container, now time.Time) (phase wire.Phase, why string, again time.Time) {
	patience := c.HealthSince.Add(unready)
	switch {
	case c.Health.Why == "": // no probe has failed yet
		return wire.PhasePending, "", time.Time{}
	case now.Before(patience):
		return wire.PhasePending, "", patience
	}
	return wire.PhaseFailed, "is not ready: " + c.Health.Why, time.Time{}
}

// Stuck says what is wrong with a container that has to be cleared.
func Stuck(c *container.Container) string {
	if c.Gone {
		return "had no process any more, though podman believed that it runs: it is made anew"
	}
	if c.Torn {
		return "was damaged on the disk, as by a power cut: it is made anew"
	}
	if c.Unwatched {
		return "lost the process of podman that watches it: it is made anew"
	}
	if c.Severed {
		return "lost its network (network.mode Shared), whose process was ended by something else: it is made anew"
	}
	if c.State == container.StatePaused {
		return "was paused for an hour: it is made anew"
	}
	return fmt.Sprintf("hung in state %s: it is made anew", c.State)
}

// tooOften is how often a service that is to run may end well before that is a failure.
const tooOften = 3

// last is how the last run of a container ended, with what is known of it besides.
func last(c *container.Container) container.Exit {
	e := c.Exit()
	e.Output, e.Unwell = c.Last.Output, c.Last.Unwell
	return e
}

const (
	// killed is the exit code of a container whose first process got SIGKILL.
	killed = 128 + int(syscall.SIGKILL)
	// signalled is the exit code of one that a signal ended, less the signal.
	signalled, lastSignal = 128, 64
)

// exited says how a run ended, and how often the container was started again.
func exited(e container.Exit, restarts int) string {
	text := fmt.Sprintf("exited with code %d", e.Code)
	switch name := unix.SignalName(syscall.Signal(e.Code - signalled)); {
	case e.Unwell != "":
		text = "was stopped: " + e.Unwell
	case e.Code != 0 && e.OutOfMemory:
		text = "was killed, since it needed more memory than its limit or the device has"
	case e.Code == killed: // podman 4.3 may not notice why
		text = "was killed (exit code 137), as happens when it needs more memory than its limit or the device has"
	case e.Code > signalled && e.Code <= signalled+lastSignal && name != "":
		text = fmt.Sprintf("was ended by %s (exit code %d)", name, e.Code)
	}
	if text += restarted(restarts); e.Output != "" {
		text += lastOutput + e.Output
	}
	return text
}

// ofRights reports whether a failure may be one of rights: its words say so, or there are
// none.
func ofRights(why string) bool {
	why = strings.ToLower(why)
	words := []string{"permission denied", "eacces", "accessdenied", "not permitted"}
	return !strings.Contains(why, lastOutput) || slices.ContainsFunc(words, func(word string) bool { return strings.Contains(why, word) })
}

// lastOutput comes before what a container wrote.
const lastOutput = ", last output: "

func restarted(times int) string {
	switch times {
	case 0:
		return ""
	case 1:
		return ", 1 restart"
	}
	return fmt.Sprintf(", %d restarts", times)
}
