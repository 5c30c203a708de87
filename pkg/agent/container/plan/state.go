package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Settle is how long a container that its policy restarted has to run before
// it counts as running again. Until then it is taken for crash-looping.
const Settle = 20 * time.Second

// maxReported bounds the containers in a report: a score has at most as many
// services.
const maxReported = 64

// State judges containers by their workload, which is nil when it is not known.
func State(w *Workload, observed []container.Container, now time.Time) (s workload.State) {
	for _, c := range observed[:min(len(observed), maxReported)] {
		s.Parts = append(s.Parts, wire.ContainerState{
			Service: c.Service, State: string(c.State), Image: c.Image, ExitCode: exitCode(&c),
		})
		if last := c.LastEvent(); last.After(s.LastEvent) {
			s.LastEvent = last
		}
	}
	slices.SortFunc(s.Parts, func(a, b wire.ContainerState) int { return strings.Compare(a.Service, b.Service) })
	if w == nil {
		s.Phase = judgeUnknown(observed)
		return s
	}
	s.Phase, s.Error, s.Again = judge(w, observed, now)
	return s
}

// exitCode is zero for a container that has not ended: podman keeps the code
// of an earlier run.
func exitCode(c *container.Container) int {
	if c.Ended() {
		return c.ExitCode
	}
	return 0
}

// judge derives the phase from the services: the worst of them counts.
func judge(w *Workload, observed []container.Container, now time.Time) (phase wire.Phase, text string, again time.Time) {
	phase = wire.PhaseRunning
	kept, _ := match(w, observed)
	for i := range w.Services {
		s := &w.Services[i]
		c, ok := kept[s.Service]
		if !ok {
			phase = cmp.Or(onlyFailed(phase), wire.PhasePending)
			continue
		}
		verdict, why, until := judgeContainer(s.Restart, &c, now)
		again = earliest(again, until)
		switch {
		case verdict == wire.PhaseFailed && phase != wire.PhaseFailed:
			phase, text = verdict, fmt.Sprintf("service %s: %s", s.Service, why)
		case verdict == wire.PhasePending:
			phase = cmp.Or(onlyFailed(phase), verdict)
		}
	}
	return phase, text, again
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

// killed is the exit code of a container whose first process got SIGKILL.
const killed = 128 + 9

// judgeContainer judges one container. One that ended with code 0 and is not
// to be restarted did its job: it counts as running, because its service is in
// the state that the score asks for.
func judgeContainer(policy container.Restart, c *container.Container, now time.Time) (phase wire.Phase, why string, again time.Time) {
	switch {
	case c.State == container.StateRunning && c.Restarts > 0 && now.Before(c.Started.Add(Settle)):
		return wire.PhaseFailed, "ended and was restarted", c.Started.Add(Settle)
	case c.State == container.StateRunning:
		return wire.PhaseRunning, "", time.Time{}
	case c.State == container.StatePaused:
		return wire.PhaseFailed, "is paused on the device, which podman unpause ends", time.Time{}
	case !c.Ended():
		return wire.PhasePending, "", time.Time{}
	case c.Interrupted() && policy == container.RestartNever:
		return wire.PhaseFailed, "was interrupted when the device went down", time.Time{}
	case c.Interrupted():
		return wire.PhasePending, "", time.Time{}
	case policy == container.RestartAlways && c.Restarts == 0 && now.Before(c.Finished.Add(Grace)):
		return wire.PhasePending, "", c.Finished.Add(Grace)
	case c.ExitCode != 0 && c.OutOfMemory:
		return wire.PhaseFailed, "was killed, since it needed more memory than its limit or the device has", time.Time{}
	case c.ExitCode == killed: // podman 4.3 may not notice why
		return wire.PhaseFailed, "was killed (exit code 137), as happens when it needs more memory than its limit or the device has", time.Time{}
	case c.ExitCode != 0:
		return wire.PhaseFailed, fmt.Sprintf("ended with exit code %d", c.ExitCode), time.Time{}
	case policy == container.RestartAlways:
		return wire.PhasePending, "", time.Time{}
	}
	return wire.PhaseRunning, "", time.Time{}
}
