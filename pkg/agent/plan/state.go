package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/printable"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Settle is how long a container that its policy restarted has to run before
// it counts as running again. Until then it is taken for crash-looping.
const Settle = 20 * time.Second

// Outcome is what is known of a Deployment after its containers were looked at.
type Outcome struct {
	Ref wire.DeploymentRef
	// Hash is that of the body which the outcome is about.
	Hash string
	// Workload is nil when the body is not known.
	Workload *Workload
	Observed []container.Container
	// Err is why the workload could not be applied; Since is when that began.
	Err   error
	Since time.Time
	// Waiting: the workload is not applied yet, and nothing is wrong.
	Waiting bool
	Now     time.Time
}

// maxReported bounds the containers in a report: a score has at most as many
// services.
const maxReported = 64

// State makes the report about a Deployment. again is when it would read
// differently although nothing happened; zero means never.
func State(o Outcome) (s wire.DeploymentState, again time.Time) {
	s = wire.DeploymentState{DeploymentRef: o.Ref, Hash: o.Hash, LastEventAt: o.Since}
	for _, c := range o.Observed[:min(len(o.Observed), maxReported)] {
		s.Containers = append(s.Containers, wire.ContainerState{
			Service: c.Service, State: string(c.State), Image: c.Image, ExitCode: exitCode(&c),
		})
		s.LastEventAt = latest(s.LastEventAt, c.LastEvent())
	}
	slices.SortFunc(s.Containers, func(a, b wire.ContainerState) int { return strings.Compare(a.Service, b.Service) })
	switch {
	case o.Err != nil:
		s.Phase, s.Error = wire.PhaseFailed, Cut(o.Err.Error(), wire.MaxError)
	case o.Waiting:
		s.Phase = wire.PhasePending
	default:
		s.Phase, s.Error, again = judge(&o)
	}
	s.LastEventAt = s.LastEventAt.UTC()
	return s, again
}

// exitCode is zero for a container that has not ended: podman keeps the code
// of an earlier run.
func exitCode(c *container.Container) int {
	if c.Ended() {
		return c.ExitCode
	}
	return 0
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// judge derives the phase from the services: the worst of them counts.
func judge(o *Outcome) (phase wire.Phase, text string, again time.Time) {
	if o.Workload == nil {
		return judgeUnknown(o.Observed), "", time.Time{}
	}
	phase = wire.PhaseRunning
	kept, _ := match(o.Workload, o.Observed)
	for i := range o.Workload.Services {
		s := &o.Workload.Services[i]
		c, ok := kept[s.Service]
		if !ok {
			phase = cmp.Or(onlyFailed(phase), wire.PhasePending)
			continue
		}
		verdict, why, until := judgeContainer(s.Restart, &c, o.Now)
		again = earliest(again, until)
		switch {
		case verdict == wire.PhaseFailed && phase != wire.PhaseFailed:
			phase, text = verdict, Cut(fmt.Sprintf("service %s: %s", s.Service, why), wire.MaxError)
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

// Cut shortens a text to at most limit bytes without splitting a character,
// and to one line that can be printed.
func Cut(text string, limit int) string {
	text = printable.Line(strings.Join(strings.Fields(text), " "))
	if len(text) <= limit {
		return text
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + mark
}
