package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// DefaultMinReady is how long a service without a probe has to run before it counts as
// ready, unless its score says otherwise.
const DefaultMinReady = 5 * time.Second

// maxByPolicy is how often a runtime may restart a container of an earlier agent before
// this one stops it and takes over.
const maxByPolicy = 3

// Workload is what a score asks for, in terms of containers.
type Workload struct {
	Ref wire.DeploymentRef
	// Services have distinct names.
	Services []container.Spec
	// MinReady is how long a service has to run before it counts as ready.
	MinReady time.Duration
	// Volumes are the full names of the volumes that the services mount.
	Volumes []string
	// SecretUses says which services use Secrets, by service.
	SecretUses map[string]SecretUse
}

// Kind is a kind of Action.
type Kind int

// Kinds of Action.
const (
	// Pull fetches Image unless it is on the device.
	Pull Kind = iota
	// EnsureVolume makes Volume unless it exists.
	EnsureVolume
	// EnsureSecret makes Secret with Content unless it exists.
	EnsureSecret
	// Remove stops and removes Container.
	Remove
	// Create makes a container from Spec and starts it.
	Create
	// Start starts Container.
	Start
	// Stop stops Container, to be started again later.
	Stop
	// RemoveVolume removes Volume.
	RemoveVolume
)

func (k Kind) String() string {
	return [...]string{"pull", "ensure volume", "ensure secret", "remove", "create", "start", "stop", "remove volume"}[k]
}

// Action is one step. The fields that its Kind does not mention are zero.
type Action struct {
	Kind      Kind
	Image     string
	Volume    string
	Secret    string
	Content   []byte
	Container container.Container
	Spec      *container.Spec
}

// String says what the action does.
func (a Action) String() string {
	switch a.Kind {
	case Pull:
		return fmt.Sprintf("pulling image %q", a.Image)
	case EnsureVolume:
		return "making volume " + a.Volume
	case EnsureSecret:
		return "making secret " + a.Secret
	case Remove:
		return "removing container " + a.Container.Name
	case Create:
		return "creating container " + a.Spec.Name()
	case Start:
		return "starting container " + a.Container.Name
	case Stop:
		return "stopping container " + a.Container.Name
	case RemoveVolume:
		return "removing volume " + a.Volume
	}
	return a.Kind.String()
}

// Changes lists the steps from the observed containers of a Deployment to its
// workload. There are none when they agree. again is when there may be more to
// do although nothing happened; zero means never.
//
// Images come first: a pull may take minutes or fail, and what runs must go on
// meanwhile. Then everything obsolete goes before anything new comes, so that
// services of one Deployment can exchange host ports.
func Changes(w *Workload, observed []container.Container, now time.Time) (actions []Action, again time.Time) {
	kept, obsolete := match(w, observed)
	var pulls, volumes, secrets, removals, rest []Action
	for i := range w.Services {
		s := &w.Services[i]
		c, ok := kept[s.Service]
		if !ok {
			pulls = appendNew(pulls, Action{Kind: Pull, Image: s.Image})
			for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
				secrets = append(secrets, Action{Kind: EnsureSecret, Secret: name, Content: s.Secrets[name]})
			}
			rest = append(rest, Action{Kind: Create, Spec: s})
			continue
		}
		switch at, must := startAt(s.Restart, &c); {
		case loopsByPolicy(&c, now):
			rest = append(rest, Action{Kind: Stop, Container: c})
		case must && !now.Before(at):
			rest = append(rest, Action{Kind: Start, Container: c})
		case must:
			again = earliest(again, at)
		}
	}
	if len(kept) < len(w.Services) {
		for _, v := range w.Volumes {
			volumes = append(volumes, Action{Kind: EnsureVolume, Volume: v})
		}
	}
	for _, c := range obsolete {
		removals = append(removals, Action{Kind: Remove, Container: c})
	}
	return slices.Concat(pulls, volumes, secrets, removals, rest), again
}

// earliest is the earlier of two times, of which a zero one is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// appendNew appends a pull unless the same image is pulled already.
func appendNew(pulls []Action, a Action) []Action {
	if slices.ContainsFunc(pulls, func(p Action) bool { return p.Image == a.Image }) {
		return pulls
	}
	return append(pulls, a)
}

// match finds the container of each service: the first by name that was made
// from the same content. All others are obsolete.
func match(w *Workload, observed []container.Container) (kept map[string]container.Container, obsolete []container.Container) {
	kept = make(map[string]container.Container, len(w.Services))
	for _, c := range observed {
		if c.Ref != w.Ref {
			continue // of somebody else: not ours to touch
		}
		i := slices.IndexFunc(w.Services, func(s container.Spec) bool { return s.Service == c.Service })
		_, taken := kept[c.Service]
		if i >= 0 && !taken && w.Services[i].Hash == c.Hash && w.Services[i].Name() == c.Name {
			kept[c.Service] = c
			continue
		}
		obsolete = append(obsolete, c)
	}
	return kept, obsolete
}

// startAt reports whether a container that is what it should be has to be started, and
// from when on: a new one, one that ran when the device went down, and one that ended
// although its service is to run. The more often it ended, the longer it waits.
func startAt(policy container.Restart, c *container.Container) (at time.Time, must bool) {
	switch {
	case c.Unstarted():
		return time.Time{}, true
	case !c.Ended() || policy == container.RestartNever:
		return time.Time{}, false
	case c.Interrupted():
		return time.Time{}, true
	case policy == container.RestartAlways || c.ExitCode != 0:
		return c.Since.Add(runs.Pause(c.Ends)), true
	}
	return time.Time{}, false
}

// loopsByPolicy reports whether the runtime itself starts a container again and again,
// by the policy that an earlier agent gave it.
func loopsByPolicy(c *container.Container, now time.Time) bool {
	return c.Policy != container.RestartNever && c.PolicyRestarts >= maxByPolicy && !c.Ended() && now.Before(c.Since.Add(Settle))
}

// Departure lists the steps that remove a Deployment: its containers, and its
// volumes when retention says so.
func Departure(ref wire.DeploymentRef, observed []container.Container, volumes []string, retention wire.VolumeRetention) []Action {
	var actions []Action
	for _, c := range observed {
		if c.Ref == ref {
			actions = append(actions, Action{Kind: Remove, Container: c})
		}
	}
	if retention != wire.DeleteVolumes {
		return actions
	}
	for _, v := range volumes {
		actions = append(actions, Action{Kind: RemoveVolume, Volume: v})
	}
	return actions
}
