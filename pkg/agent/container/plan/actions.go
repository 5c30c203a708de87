package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/container/schedule"
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
	// Networks are those that the services are connected to.
	Networks []container.Network
	// Before are the hashes that the services had before networks were a part of them, by
	// service, where the score says nothing about networks; see AsBefore.
	Before map[string]string
	// SecretUses says which services use Secrets and ConfigMaps, by service.
	SecretUses map[string]SecretUse
	// PullSecrets are the names of the Secrets with logins for pulls, Logins what they hold,
	// by WithSecrets.
	PullSecrets []string
	Logins      []container.Login
	// Earlier are services as agents up to 0.1 made them, by service; see Inherit.
	Earlier map[string]container.Spec
	// Refused are the services whose new container did not run, by service.
	Refused map[string]Refusal
	// Cleared says why containers were cleared whose services are not ready again, by
	// service.
	Cleared map[string]string
	// Hints say what may be why services fail, by service.
	Hints map[string]string
	// Waiting says what services wait for before they can start, by service.
	Waiting map[string]string
	// Notes say what else is to be known of services, by service.
	Notes map[string]string
	// Schedules say when services run that are jobs, Runs what is known of them, by service.
	Schedules map[string]schedule.Rule
	Runs      map[string]Job
}

// Refusal says that the container of a service did not run, and that the previous one
// was put back.
type Refusal struct {
	// Hash is that of the container that did not run.
	Hash string
	// Text is why.
	Text string
	// Until is when it is tried again.
	Until time.Time
}

// Kind is a kind of Action.
type Kind int

// Kinds of Action.
const (
	// Pull fetches Image unless it is on the device.
	Pull Kind = iota
	// EnsureVolume makes Volume, of Size, unless it exists.
	EnsureVolume
	// EnsureNetwork makes Network unless it exists.
	EnsureNetwork
	// EnsureSecret makes Secret with Content unless it exists.
	EnsureSecret
	// Remove stops and removes Container.
	Remove
	// Clear removes Container, whatever the runtime believes that it does.
	Clear
	// Prepare makes a container from Spec that is to take the place of Container, and
	// finds out whether it could be started.
	Prepare
	// Swap stops Container and starts what was prepared from Spec, or starts Container
	// again if that fails.
	Swap
	// Promote gives Container, which was prepared from Spec and is ready, the name of
	// its service, and removes Spare.
	Promote
	// PutBack removes Container, which was prepared from Spec and does not run, and
	// starts Spare. Why is why it does not run.
	PutBack
	// Create makes a container from Spec and starts it.
	Create
	// Start starts Container.
	Start
	// Stop stops Container, to be started again later. Why is why.
	Stop
	// Resume starts Container, which does not run, unless its place was taken after all.
	Resume
	// RemoveVolume removes Volume.
	RemoveVolume
)

func (k Kind) String() string {
	return [...]string{"pull", "ensure volume", "ensure network", "ensure secret", "remove", "clear", "prepare", "swap", "promote", "put back", "create", "start", "stop", "resume", "remove volume"}[k]
}

// Action is one step. The fields that its Kind does not mention are zero.
type Action struct {
	Kind   Kind
	Image  string
	Volume string
	// Size of Volume in bytes; 0 for no limit.
	Size      int64
	Network   *container.Network
	Secret    string
	Content   []byte
	Container container.Container
	Spec      *container.Spec
	// Spare is nil for none.
	Spare *container.Container
	Why   string
	// Late: Container is stopped because it ran for too long.
	Late bool
	// Wave is one of those in which containers are removed: one of a wave waits for all
	// before it.
	Wave int
}

// String says what the action does.
func (a Action) String() string {
	switch a.Kind {
	case Pull:
		return fmt.Sprintf("pulling image %q", a.Image)
	case EnsureVolume:
		return "making volume " + a.Volume
	case EnsureNetwork:
		return "making network " + a.Network.Name
	case EnsureSecret:
		return "making secret " + a.Secret
	case Remove:
		return "removing container " + a.Container.Name
	case Clear:
		return "clearing container " + a.Container.Name
	case Prepare:
		return "preparing container " + a.Spec.Name()
	case Swap:
		return "replacing container " + a.Container.Name
	case Promote:
		return "keeping container " + a.Spec.Name()
	case PutBack:
		return "putting back container " + a.Spec.Name()
	case Create:
		return "creating container " + a.Spec.Name()
	case Start:
		return "starting container " + a.Container.Name
	case Stop:
		return "stopping container " + a.Container.Name
	case Resume:
		return "starting again container " + a.Container.Name
	case RemoveVolume:
		return "removing volume " + a.Volume
	}
	return a.Kind.String()
}

// Changes lists the steps from the observed containers of a Deployment to its
// workload. There are none when they agree. again is when there may be more to
// do although nothing happened; zero means never.
//
// What cannot be undone comes last. Images come first: a pull may take minutes or fail,
// and what runs must go on meanwhile. Then the containers are prepared that take the
// place of others, which shows whether they can start. Then everything obsolete goes
// before anything new comes, so that services of one Deployment can exchange host ports.
// The previous container of a service is kept until the next one is ready. Init containers run
// when all images are there and the new containers could start, before any of them does.
func Changes(w *Workload, observed []container.Container, now time.Time) (actions []Action, again time.Time) {
	sound, stuck, again := soundOf(w.Ref, observed, now)
	slots, obsolete := arrange(w, sound)
	v := &view{w: w, slots: slots, now: now}
	c := changes{w: w, view: v, now: now, again: again}
	c.initialise(v)
	for i := range slots {
		c.add(&slots[i])
	}
	if c.made {
		for _, v := range w.Volumes {
			c.volumes = append(c.volumes, Action{Kind: EnsureVolume, Volume: v, Size: sizeOf(w, v)})
		}
	}
	for _, o := range stuck {
		c.removals = append(c.removals, Action{Kind: Clear, Container: o})
	}
	for _, o := range obsolete {
		c.removals = append(c.removals, Action{Kind: Remove, Container: o})
	}
	for _, p := range c.images {
		c.pulls = appendNew(c.pulls, p)
	}
	inWaves(c.removals, w.Waves())
	actions = slices.Concat(c.pulls, c.volumes, c.networks(), c.secrets, c.removals, c.prepared, c.swaps, c.rest, c.resumes)
	if c.waiting && len(actions) > len(c.images) {
		c.again = now // what was waited for may be there
	}
	return actions, c.again
}

// sizeOf is what a volume may hold, in bytes.
func sizeOf(w *Workload, volume string) int64 {
	for _, s := range w.Services {
		if size := s.VolumeSizes[volume]; size > 0 {
			return size
		}
	}
	return 0
}

// changes collects the actions, by when they are taken.
type changes struct {
	w     *Workload
	view  *view
	now   time.Time
	again time.Time
	// made: a container is made.
	made bool
	// waiting: a service waits for another.
	waiting bool

	images, pulls, volumes, secrets, removals, prepared, swaps, rest, resumes []Action
}

// add adds what is to be done for one service.
func (c *changes) add(s *slot) {
	switch {
	case s.spec.Role == container.RoleInit:
	case s.spec.Role == container.RoleJob:
		c.job(c.view, s)
	case s.serving != nil:
		c.serve(s)
	case s.waitsForRetry(c.view):
		c.again = earliest(c.again, c.w.Refused[s.spec.Service].Until)
		c.run(s, s.previous)
	case s.lacks(c.w) && s.previous != nil:
		c.run(s, s.previous)
	case s.lacks(c.w):
	case c.waits(s, true):
		if s.previous != nil {
			c.run(s, s.previous)
		}
	case s.previous == nil:
		c.make(s.spec)
		c.rest = append(c.rest, Action{Kind: Create, Spec: s.spec})
	default:
		c.make(s.spec)
		c.prepared = append(c.prepared, Action{Kind: Prepare, Spec: s.spec, Container: *s.previous})
		c.swaps = append(c.swaps, Action{Kind: Swap, Spec: s.spec, Container: *s.previous})
		c.resume(s)
	}
}

// waits reports whether a service waits for another, and notes when that may be over.
func (c *changes) waits(s *slot, anew bool) bool {
	what, again := c.view.waits(s, anew)
	if what == "" {
		return false
	}
	c.waiting, c.again = true, earliest(c.again, again)
	return true
}

// resume starts the previous container, which does not run, as after a power cut, where
// the next one cannot be had.
func (c *changes) resume(s *slot) {
	switch at, must := startAt(s.spec.Restart, s.previous); {
	case must && !c.now.Before(at):
		c.resumes = append(c.resumes, Action{Kind: Resume, Spec: s.spec, Container: *s.previous})
	case must:
		c.again = earliest(c.again, at)
	}
}

// make adds what a new container needs.
func (c *changes) make(s *container.Spec) {
	c.made = true
	c.pulls = appendNew(c.pulls, Action{Kind: Pull, Image: s.Image})
	c.needSecrets(s)
}

// needSecrets adds the secrets of a container that is made or started.
func (c *changes) needSecrets(s *container.Spec) {
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		c.secrets = append(c.secrets, Action{Kind: EnsureSecret, Secret: name, Content: s.Secrets[name]})
	}
}

// serve keeps the container going that is what its service asks for.
func (c *changes) serve(s *slot) {
	phase, why, again := judgeContainer(c.w, s.spec, s.serving, c.now)
	own := s.serving.Name == s.spec.Name()
	switch {
	case !own && (s.spare == nil || phase == wire.PhaseRunning):
		c.rest = append(c.rest, Action{Kind: Promote, Spec: s.spec, Container: *s.serving, Spare: s.spare})
	case s.failed(c.now):
		c.rest = append(c.rest, Action{Kind: PutBack, Spec: s.spec, Container: *s.serving, Spare: s.spare, Why: why})
		return
	case s.spare != nil:
		c.again = earliest(earliest(c.again, again), s.deadline())
		if s.spare.State == container.StateRunning { // never two of one service
			c.rest = append(c.rest, Action{Kind: Stop, Container: *s.spare, Why: "another container of its service runs"})
		}
	}
	c.run(s, s.serving)
}

// run starts a container that is to run, and stops one that may not.
func (c *changes) run(s *slot, o *container.Container) {
	late, end := s.overdue(o, c.now)
	c.again = earliest(c.again, end)
	switch at, must := startAt(s.spec.Restart, o); {
	case late != "":
		c.rest = append(c.rest, Action{Kind: Stop, Container: *o, Why: late, Late: true})
	case o.State == container.StateRunning && o.Health.Unwell != "":
		c.rest = append(c.rest, Action{Kind: Stop, Container: *o, Why: o.Health.Unwell})
	case loopsByPolicy(o, c.now):
		c.rest = append(c.rest, Action{Kind: Stop, Container: *o, Why: "podman restarts it again and again"})
	case must && s.lacks(c.w):
	case must && (o.Unstarted() || o.Interrupted()) && c.waits(s, false):
	case must && !c.now.Before(at):
		if o == s.serving { // runtimes look for secrets at each start, and they may have been lost
			c.needSecrets(s.spec)
		}
		c.rest = append(c.rest, Action{Kind: Start, Container: *o})
	case must:
		c.again = earliest(c.again, at)
	}
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

const (
	// maxGone is how long a container may have no process before that is certain: the
	// runtime notices most ends a moment later.
	maxGone = 5 * time.Second
	// maxPassing is how long a state may last that passes by itself, besides the time
	// that the container has to end.
	maxPassing = 2 * time.Minute
	// maxPaused is how long a container may be paused: nobody can tell who paused it.
	maxPaused = time.Hour
)

// stuckAt is how long a container may be as it is before it is stuck.
func stuckAt(c *container.Container) time.Duration {
	switch c.Oddity() {
	case container.Broken:
		return maxGone
	case container.Paused:
		return maxPaused
	default:
		return c.Grace + maxPassing
	}
}

// isStuck reports whether it has been so for that long.
func isStuck(c *container.Container) bool { return c.Odd() && c.Stuck >= stuckAt(c) }

// soundOf divides the containers of a Deployment into those that are what they seem and
// those that are stuck, and returns when that has to be looked at again.
func soundOf(ref wire.DeploymentRef, observed []container.Container, now time.Time) (sound, stuck []container.Container, again time.Time) {
	for _, c := range observed {
		switch {
		case c.Ref == ref && isStuck(&c):
			stuck = append(stuck, c)
			continue
		case c.Ref == ref && c.Odd():
			again = earliest(again, now.Add(stuckAt(&c)-c.Stuck))
		}
		sound = append(sound, c)
	}
	return sound, stuck, again
}

// slot is what there is of one service.
type slot struct {
	spec *container.Spec
	// serving is what the service asks for, or nil. spare is the previous container,
	// which is kept until serving is ready; nil for none.
	serving, spare *container.Container
	// previous is a container with another content whose place is to be taken; nil for
	// none, and while there is one that is serving.
	previous *container.Container
	// stale are containers of earlier sets or runs, of an init container or a job, which are
	// kept until the next one is made.
	stale []container.Container
}

// lacks reports whether the service cannot start for want of a device.
func (s *slot) lacks(w *Workload) bool {
	_, waits := w.Waiting[s.spec.Service]
	return waits
}

// refused reports whether what the service asks for was tried, and did not run.
func (s *slot) refused(w *Workload) bool {
	r, there := w.Refused[s.spec.Service]
	return there && r.Hash == s.spec.Hash
}

// failed reports whether the container that is to take the place of the previous one does
// not run, or not well.
func (s *slot) failed(now time.Time) bool {
	switch c := s.serving; {
	case s.spare == nil:
		return false
	case c.Ended():
		return c.Ends >= tooOften || c.Last.Unwell != ""
	default:
		deadline := s.deadline()
		return c.Health.Unwell != "" || !deadline.IsZero() && !now.Before(deadline)
	}
}

// readyDeadline is how long a container that is to take the place of another may run
// without being ready.
const readyDeadline = 10 * time.Minute

// deadline is when the container that runs in the place of the previous one has to be
// ready by its probes; zero for never.
func (s *slot) deadline() time.Time {
	c := s.serving
	if c.State != container.StateRunning || c.Ready(c.ProbesOf(s.spec.Probes)) {
		return time.Time{}
	}
	return c.Since.Add(readyDeadline)
}

// arrange finds out what there is of each service. All other containers of the
// Deployment are obsolete.
func arrange(w *Workload, observed []container.Container) (slots []slot, obsolete []container.Container) {
	slots = make([]slot, len(w.Services))
	used := make([]bool, len(observed))
	find := func(is func(*container.Container) bool) *container.Container {
		for i := range observed {
			if c := &observed[i]; c.Ref == w.Ref && !used[i] && is(c) {
				used[i] = true
				return c
			}
		}
		return nil
	}
	for i, spec := range w.specs() {
		own, next := spec.Name(), spec.At(container.StageNext).Name()
		s := slot{spec: spec}
		s.serving = find(func(c *container.Container) bool {
			return c.Service == spec.Service && c.Name == own && c.Hash == spec.Hash
		})
		if spec.Role != container.RoleService {
			for {
				c := find(func(c *container.Container) bool { return c.Service == spec.Service && isOf(spec.Role, c) })
				if c == nil {
					break
				}
				s.stale = append(s.stale, *c)
			}
		} else if s.serving == nil {
			s.serving = find(func(c *container.Container) bool {
				return c.Service == spec.Service && c.Name == next && c.Hash == spec.Hash && !c.Unstarted()
			})
			// What never ran, or ran to do a job, is not put back.
			previous := find(func(c *container.Container) bool {
				return c.Service == spec.Service && c.Name == own && c.HasRun() && spec.Restart != container.RestartNever
			})
			if s.previous = previous; s.serving != nil {
				s.previous, s.spare = nil, previous
			}
		}
		slots[i] = s
	}
	for i, c := range observed {
		if c.Ref == w.Ref && !used[i] { // those of others are not ours to touch
			obsolete = append(obsolete, c)
		}
	}
	return slots, obsolete
}

// isOf reports whether a container may be one of an earlier set or run.
func isOf(role container.Role, c *container.Container) bool {
	_, run := container.JobTime(c.Hash)
	return run == (role == container.RoleJob)
}

// Serving calls yield for the container of each service that runs and is what its service
// asks for.
func Serving(w *Workload, observed []container.Container, yield func(*container.Spec, *container.Container)) {
	slots, _ := arrange(w, observed)
	for _, s := range slots {
		if s.serving != nil && s.serving.State == container.StateRunning && s.spec.Role == container.RoleService {
			yield(s.spec, s.serving)
		}
	}
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
	case policy == container.RestartAlways || c.ExitCode != 0 || c.Last.Unwell != "":
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
// volumes when retention says so. waves are those of the services, as far as they are known.
func Departure(ref wire.DeploymentRef, observed []container.Container, volumes []string, retention wire.VolumeRetention, waves map[string]int) []Action {
	var actions []Action
	for _, c := range observed {
		kind := Remove
		if isStuck(&c) {
			kind = Clear
		}
		if c.Ref == ref {
			actions = append(actions, Action{Kind: kind, Container: c})
		}
	}
	inWaves(actions, waves)
	for _, v := range volumes {
		if retention == wire.DeleteVolumes || container.IsFileVolume(v) {
			actions = append(actions, Action{Kind: RemoveVolume, Volume: v})
		}
	}
	return actions
}
