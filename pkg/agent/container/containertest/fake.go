// Package containertest has a container.Runtime in memory and the conformance
// suite that it and package podman pass. It is for tests only.
package containertest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ExitCommand is the first word of a command that ends at once; the second is
// its exit code. Any other command runs until it is stopped.
const ExitCommand = "exit"

// MissingCommand is the first word of a command that is not there.
const MissingCommand = "missing"

// CheckCommand is the first word of a command that ends with code 0 if the
// environment variable that comes second and the file that comes third have the
// content that comes last.
const CheckCommand = "check"

// killed is the exit code of a container that was stopped: 128 + SIGTERM.
const killed = 143

// Fake is a Runtime in memory.
type Fake struct {
	// PullFunc, when set, decides about pulls; it may block. By default every
	// image can be pulled. While anybody pulls, SetPull sets it.
	PullFunc func(ctx context.Context, image string) error
	// Ending is how long containers take to end that are asked to, Lingering how long
	// their ports stay in use then.
	Ending, Lingering time.Duration

	mu         sync.Mutex // guards what follows
	down       error
	images     map[string]string // ids by name
	unnamed    []string          // ids of images that lost their name
	published  map[string]bool
	onRemove   func()
	declared   map[string][]string
	checks     map[string]*container.Probe
	built      map[string]container.Image
	containers map[string]*entry
	volumes    map[string]volume
	secrets    map[string][]byte
	networks   map[string]container.Network
	held       map[string]bool // networks whose ports are taken
	noBridge   string
	foreign    map[string]bool
	watchers   map[chan wire.DeploymentRef]bool
	broken     chan struct{}
	calls      []string
	logins     []container.Login
	nextID     int
	// namesCleared counts the calls of ClearNames.
	namesCleared int
	invented     []container.Container
	outputs      map[string][]said
	controllers  []string
	// ahead is how far the clock that it dates by is.
	ahead      time.Duration
	size, used uint64
	// last is the call after which the runtime is down.
	last string
	// left is how many more changes it makes until it is down and calls then; 0 for no end.
	left int
	then func()
	// leaves: the runtime ends in the midst of the next start.
	leaves bool
	// starts counts the calls of Start.
	starts int
	// twice names the services of which a second container was started beside the first.
	twice []string
}

type entry struct {
	container.Container
	spec container.Spec
	// image is the id of the image that it was made from.
	image string
	// outdated: it cannot be started any more. left: something of an earlier start is there,
	// which has its ports.
	outdated, left bool
	// damaged: a power cut took a part of it.
	damaged bool
	// said is what it wrote by itself.
	said []said
}

type volume struct {
	owner wire.DeploymentRef // zero for one without a name
	// adopts is the volume that it stands for, or empty.
	adopts string
	// files are what is in it, by path, as far as that was unpacked.
	files map[string]string
}

var _ container.Runtime = (*Fake)(nil)

// NewFake returns a runtime that has the given images and nothing else.
func NewFake(images ...string) *Fake {
	f := &Fake{
		images:     map[string]string{},
		published:  map[string]bool{},
		containers: map[string]*entry{},
		volumes:    map[string]volume{},
		declared:   map[string][]string{},
		checks:     map[string]*container.Probe{},
		built:      map[string]container.Image{},
		secrets:    map[string][]byte{},
		networks:   map[string]container.Network{},
		held:       map[string]bool{},
		foreign:    map[string]bool{},
		outputs:    map[string][]said{},
		watchers:   map[chan wire.DeploymentRef]bool{},
		broken:     make(chan struct{}),
		size:       100, used: 10,
	}
	f.Load(images...)
	return f
}

// SetDown makes every call fail with ErrUnavailable until it is called with
// false. Streams of events break.
func (f *Fake) SetDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down, f.left = nil, 0
	if down {
		f.down = container.ErrUnavailable
		close(f.broken)
		f.broken = make(chan struct{})
	}
}

// Calls returns what changed the runtime since the last call of Calls:
// "create NAME", "start NAME", "stop NAME", "remove NAME", "pull IMAGE",
// "unpull NAME-OR-ID", "volume NAME", "unvolume NAME", "network NAME", "unnetwork NAME",
// "secret NAME" and "unsecret NAME".
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

// Exit ends a running container as if its process had ended.
func (f *Fake) Exit(name string, code int) {
	f.change(name, func(c *entry) {
		c.end(code, f.now())
		f.notify(c.Ref)
	})
}

// Damage takes a part of a container: it cannot be started any more.
func (f *Fake) Damage(name string) { f.change(name, func(c *entry) { c.damaged = true }) }

// Outdate makes a container one that cannot be started any more, as after an upgrade.
func (f *Fake) Outdate(name string) { f.change(name, func(c *entry) { c.outdated = true }) }

// LeaveStart makes a container one in the midst of whose start the runtime was ended.
func (f *Fake) LeaveStart(name string) { f.change(name, func(c *entry) { c.left = true }) }

// LeaveNextStart has the runtime end in the midst of the next start, and come back at once.
func (f *Fake) LeaveNextStart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaves = true
}

// EndMonitor implements driver.Monitors.
func (f *Fake) EndMonitor(_ context.Context, id string) (ended bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil || !c.left {
		return false, nil
	}
	c.left, c.outdated = false, true
	return true, nil
}

// SetClock sets the clock that the runtime dates by to so much ahead of the true time.
func (f *Fake) SetClock(ahead time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ahead = ahead
}

// now is what the runtime takes for the time.
func (f *Fake) now() time.Time { return time.Now().Add(f.ahead).UTC() }

// Running lists the containers that run, whether or not the runtime answers.
func (f *Fake) Running() (list []container.Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.State == container.StateRunning {
			list = append(list, c.Container)
		}
	}
	return list
}

// change changes the container of a name, behind the agent's back.
func (f *Fake) change(name string, how func(*entry)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.Name == name {
			how(c)
		}
	}
}

// Restart counts a restart of a container by its policy.
func (f *Fake) Restart(name string) {
	f.change(name, func(c *entry) {
		c.State, c.Started = container.StateRunning, f.now()
		c.PolicyRestarts++
		f.notify(c.Ref)
	})
}

// SetList makes the runtime list further containers, which do not exist.
func (f *Fake) SetList(invented []container.Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.invented = invented
}

// Declare makes an image declare volumes.
func (f *Fake) Declare(image string, paths ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.declared[image] = paths
}

// Leave gives a container a volume without a name, as if its image had declared one
// when an agent that did not look made it. It returns what the runtime calls it.
func (f *Fake) Leave(name, path string) (volume string) {
	f.change(name, func(c *entry) {
		volume = f.anonymous()
		c.Volumes = append(c.Volumes, container.Mount{Volume: volume, Path: path})
	})
	return volume
}

// anonymous makes a volume without a name.
func (f *Fake) anonymous() (name string) {
	f.nextID++
	name = wire.Sum([]byte(strconv.Itoa(f.nextID))).String()
	f.volumes[name] = volume{}
	return name
}

// AddForeign adds a container that the agent did not make. It takes its name
// but is never listed.
func (f *Fake) AddForeign(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.foreign[name] = true
}

func (e *entry) end(code int, at time.Time) {
	e.State, e.ExitCode, e.Finished = container.StateExited, code, at
}

func (f *Fake) notify(ref wire.DeploymentRef) {
	for w := range f.watchers {
		select {
		case w <- ref:
		default: // a watcher that is this far behind has enough to look at
		}
	}
}

func (f *Fake) record(format string, args ...any) {
	call := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, call)
	if call == f.last {
		f.last, f.down = "", container.ErrUnavailable
	}
	if f.left--; f.left == 0 {
		f.down = container.ErrUnavailable
		f.then()
	}
	f.left = max(f.left, 0)
}

// DownAfterChanges makes every call fail with ErrUnavailable after n more changes, and calls
// then at that moment. SetDown ends it.
func (f *Fake) DownAfterChanges(n int, then func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.then = n, then
}

// Twice names the services that ever ran in two containers at one time.
func (f *Fake) Twice() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.twice)
}

// DownAfter makes every call fail with ErrUnavailable after a certain one was done, see
// Calls.
func (f *Fake) DownAfter(call string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = call
}

// Info implements container.Runtime.
func (f *Fake) Info(context.Context) (container.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return container.Info{Version: "5.0.0-fake", Arch: runtime.GOARCH, Controllers: f.controllers, NoBridge: f.noBridge, StoreSize: f.size, StoreUsed: f.used}, f.down
}

// List implements container.Runtime.
func (f *Fake) List(_ context.Context, ref wire.DeploymentRef) ([]container.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := []container.Container{}
	for _, c := range f.containers {
		if ref == (wire.DeploymentRef{}) || c.Ref == ref {
			list = append(list, c.Container)
		}
	}
	for _, c := range f.invented {
		if ref == (wire.DeploymentRef{}) || c.Ref == ref {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b container.Container) int { return cmp.Compare(a.Name, b.Name) })
	return list, f.down
}

// Create implements container.Runtime.
func (f *Fake) Create(_ context.Context, spec *container.Spec) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.down != nil:
		return "", f.down
	case f.images[spec.Image] == "":
		return "", fmt.Errorf("%s: %w", spec.Image, container.ErrImage)
	case f.nameTaken(spec.Name()):
		return "", fmt.Errorf("the container name %q is already in use", spec.Name())
	}
	for _, m := range spec.Mounts {
		if _, ok := f.volumes[m.Volume]; m.Volume != "" && !ok {
			return "", fmt.Errorf("volume %s: %w", m.Volume, container.ErrNotFound)
		}
	}
	if err := f.netless(spec); err != nil {
		return "", err
	}
	for name := range spec.Secrets {
		if _, ok := f.secrets[name]; !ok {
			return "", fmt.Errorf("secret %s: %w", name, container.ErrNotFound)
		}
	}
	f.record("create %s", spec.Name())
	f.nextID++
	id := strconv.Itoa(f.nextID)
	f.containers[id] = &entry{spec: *spec, image: f.images[spec.Image], Container: container.Container{
		ID: id, Name: spec.Name(), Ref: spec.Ref, Service: spec.Service, Hash: spec.Hash, Image: spec.Image,
		Mounts: mounts(spec, false), Volumes: mounts(spec, true), Grace: spec.Grace, HealthCheck: spec.HealthCheck, PreStop: spec.PreStop,
		State: container.StateCreated, Policy: container.RestartNever, Created: f.now(), Network: spec.Labels()[container.LabelNetwork],
	}}
	for _, path := range f.declared[spec.Image] {
		if !slices.ContainsFunc(spec.Mounts, func(m container.Mount) bool { return m.Path == path }) {
			f.containers[id].Volumes = append(f.containers[id].Volumes, container.Mount{Volume: f.anonymous(), Path: path})
		}
	}
	f.notify(spec.Ref)
	return id, nil
}

func mounts(spec *container.Spec, volumes bool) []container.Mount {
	return slices.DeleteFunc(slices.Clone(spec.Mounts), func(m container.Mount) bool { return (m.Volume != "") != volumes })
}

func (f *Fake) nameTaken(name string) bool {
	for _, c := range f.containers {
		if c.Name == name {
			return true
		}
	}
	return f.foreign[name]
}

// Init implements container.Runtime.
func (f *Fake) Init(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	switch {
	case f.down != nil:
		return f.down
	case c == nil:
		return container.ErrNotFound
	case c.State != container.StateCreated:
		return fmt.Errorf("container %s cannot be prepared to run: it is %s", c.Name, c.State)
	}
	if err := f.couldRun(c); err != nil {
		return err
	}
	f.record("init %s", c.Name)
	c.State = container.StateInitialized
	f.notify(c.Ref)
	return nil
}

// couldRun reports why a container could not be started.
func (f *Fake) couldRun(c *entry) error {
	if c.left {
		return fmt.Errorf("port: %w", container.ErrPortInUse)
	}
	if c.outdated {
		return fmt.Errorf("this network is not supported any more: %w", container.ErrOutdated)
	}
	if c.damaged {
		return fmt.Errorf("a link is missing: %w", container.ErrDamaged)
	}
	if port, taken := f.portTaken(c); taken {
		return fmt.Errorf("port %d: %w", port, container.ErrPortInUse)
	}
	if err := f.netless(&c.spec); err != nil {
		return err
	}
	if len(c.spec.Command) > 0 && c.spec.Command[0] == MissingCommand {
		return fmt.Errorf("executable file %q not found in $PATH", MissingCommand)
	}
	return nil
}

// Rename implements container.Runtime.
func (f *Fake) Rename(_ context.Context, id, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	switch {
	case f.down != nil:
		return f.down
	case c == nil:
		return container.ErrNotFound
	case f.nameTaken(name):
		return fmt.Errorf("the container name %q is already in use", name)
	}
	f.record("rename %s", name)
	c.Name = name
	f.notify(c.Ref)
	return nil
}

// Start implements container.Runtime.
func (f *Fake) Start(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts++
	c := f.containers[id]
	switch {
	case f.down != nil:
		return f.down
	case c == nil:
		return container.ErrNotFound
	case c.State == container.StateRunning:
		return nil
	}
	if err := f.couldRun(c); err != nil {
		return err
	}
	if f.leaves {
		f.leaves, c.left = false, true
		return container.ErrUnavailable
	}
	for _, other := range f.containers {
		if other != c && other.State == container.StateRunning && other.Ref == c.Ref && other.Service == c.Service {
			f.twice = append(f.twice, c.Name)
		}
	}
	f.record("start %s", c.Name)
	c.State, c.PolicyRestarts, c.Started = container.StateRunning, 0, f.now()
	if c.spec.Network.Mode == container.NetworkShared {
		f.held[network(&c.spec)] = true
	}
	if len(c.spec.Command) == 2 && c.spec.Command[0] == ExitCommand {
		code, err := strconv.Atoi(c.spec.Command[1])
		if err != nil {
			return fmt.Errorf("exit code of %s: %w", c.Name, err)
		}
		c.end(code, f.now())
		if _, set := f.outputs[c.Name]; !set {
			c.said = append(c.said, farewell(c.spec.Command[1])...)
		}
	}
	if len(c.spec.Command) == 4 && c.spec.Command[0] == CheckCommand {
		env, file := f.secrets[c.spec.SecretEnv[c.spec.Command[1]]], f.secrets[c.spec.SecretFiles[c.spec.Command[2]]]
		code := 0
		if want := c.spec.Command[3]; string(env) != want || string(file) != want {
			code = 1
		}
		c.end(code, f.now())
	}
	f.notify(c.Ref)
	return nil
}

// Starts counts the calls of Start, also of those that failed.
func (f *Fake) Starts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts
}

func (f *Fake) portTaken(c *entry) (uint16, bool) {
	if port, held := f.heldPort(c); held {
		return port, true
	}
	for _, other := range f.containers {
		lingers := other.Ended() && time.Since(other.Finished) < f.Lingering
		if other == c || other.State != container.StateRunning && other.State != container.StateInitialized && !lingers {
			continue
		}
		for _, p := range portsOf(&c.spec) {
			if slices.ContainsFunc(portsOf(&other.spec), func(o container.Port) bool { return o.Host == p.Host && o.Protocol == p.Protocol }) {
				return p.Host, true
			}
		}
	}
	return 0, false
}

// portsOf are the ports that a container listens on.
func portsOf(spec *container.Spec) []container.Port {
	if spec.Stage == container.StageTrial {
		return nil
	}
	return spec.Ports
}

// Stop implements container.Runtime.
func (f *Fake) Stop(ctx context.Context, id string, grace time.Duration) error {
	select {
	case <-time.After(min(f.Ending, grace)):
	case <-ctx.Done():
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; f.down == nil && c != nil && c.State == container.StateRunning {
		f.record("stop %s", c.Name)
		c.end(killed, f.now())
		f.notify(c.Ref)
	}
	return f.down
}

// Remove implements container.Runtime.
func (f *Fake) Remove(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	switch {
	case f.down != nil || c == nil:
		return f.down
	case c.State == container.StateRunning:
		return fmt.Errorf("container %s is running", c.Name)
	}
	f.drop(c, "remove")
	return nil
}

// drop takes a container out of the runtime.
func (f *Fake) drop(c *entry, how string) {
	f.record("%s %s", how, c.Name)
	delete(f.containers, c.ID)
	f.notify(c.Ref)
}

// Says makes the output of the containers of a name end with a text.
func (f *Fake) Says(name, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outputs[name] = says(text, false)
}

// SetControllers sets which controllers of control groups there are.
func (f *Fake) SetControllers(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.controllers = names
}

// SetSpace sets the size of the file system of images, and how much of it is used.
func (f *Fake) SetSpace(size, used uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size, f.used = size, used
}

// SetPolicy makes a container one that an earlier agent made.
func (f *Fake) SetPolicy(name string, policy container.Restart) {
	f.change(name, func(c *entry) { c.Policy = policy })
}

// Forget makes the runtime forget all containers and volumes, as when its database is lost.
func (f *Fake) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.containers)
	clear(f.volumes)
}

// Cut cuts the power: what ran has no end.
func (f *Fake) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.State == container.StateRunning {
			c.State, c.ExitCode = container.StateExited, 0
		}
	}
}

// Clear implements container.Runtime.
func (f *Fake) Clear(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if f.down != nil || c == nil {
		return f.down
	}
	f.drop(c, "clear")
	return nil
}

// Vanish takes the process of a container away, and the runtime does not notice.
func (f *Fake) Vanish(name string) {
	f.change(name, func(c *entry) { c.Gone = true })
}

// Hang leaves a container in a state.
func (f *Fake) Hang(name string, state container.State) {
	f.change(name, func(c *entry) { c.State = state })
}

// ImageExists implements container.Runtime.
func (f *Fake) ImageExists(_ context.Context, image string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.images[image] != "", f.down
}

// Image implements container.Runtime.
func (f *Fake) Image(_ context.Context, image string) (container.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down == nil && f.images[image] == "" {
		return container.Image{}, fmt.Errorf("image %s: %w", image, container.ErrNotFound)
	}
	about := f.built[image]
	about.ID, about.Volumes, about.HealthCheck = f.images[image], slices.Clone(f.declared[image]), f.checks[image]
	about.Arch, about.OS = cmp.Or(about.Arch, runtime.GOARCH), cmp.Or(about.OS, "linux")
	return about, f.down
}

// Build says for which architecture an image is, and who its user is; empty for this
// machine's and for root.
func (f *Fake) Build(image, arch, user string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.built[image] = container.Image{Arch: arch, User: user}
}

// Check gives an image a health check.
func (f *Fake) Check(image string, check container.Probe) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.checks[image] = &check
}

// Exec implements container.Runtime. Of commands it knows ExitCommand and CheckCommand;
// all others hang.
func (f *Fake) Exec(ctx context.Context, id string, command []string) (container.Execution, error) {
	f.mu.Lock()
	c, down := f.containers[id], f.down
	f.mu.Unlock()
	switch {
	case down != nil:
		return container.Execution{}, down
	case c == nil || c.State != container.StateRunning:
		return container.Execution{}, container.ErrNotFound
	case command[0] == ExitCommand:
		code, err := strconv.Atoi(command[1])
		var out strings.Builder
		Farewell(&out, &out, command[1])
		return container.Execution{Code: code, Output: []byte(out.String())}, err
	}
	<-ctx.Done()
	return container.Execution{Session: id, Running: true}, ctx.Err()
}

// Executing implements container.Runtime: what hangs does so until its container ends.
func (f *Fake) Executing(_ context.Context, session string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[session]
	return c != nil && c.State == container.StateRunning, f.down
}

// Pull implements container.Runtime.
func (f *Fake) Pull(ctx context.Context, image string, logins ...container.Login) error {
	f.mu.Lock()
	pull := f.PullFunc
	f.mu.Unlock()
	if pull != nil {
		if err := pull(ctx, image); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return f.down
	}
	f.record("pull %s", image)
	f.logins = append(f.logins, logins...)
	f.load(image)
	return nil
}

// SetPull sets PullFunc.
func (f *Fake) SetPull(pull func(ctx context.Context, image string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.PullFunc = pull
}

// load gives a name to a new image if that has none, or its image was replaced.
func (f *Fake) load(name string) {
	id, there := f.images[name]
	if there && !f.published[name] {
		return
	}
	if there {
		f.unnamed = append(f.unnamed, id)
	}
	f.nextID++
	f.images[name] = fmt.Sprintf("%064x", f.nextID)
	delete(f.published, name)
}

// Load brings images to the device, as a person does.
func (f *Fake) Load(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		f.load(name)
	}
}

// Publish makes the next pull of a name bring another image than it has.
func (f *Fake) Publish(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.published[name] = true
}

// Lose takes an image away, whatever uses it, as a worn disk does.
func (f *Fake) Lose(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.images, name)
}

// OnRemove calls a function after each removal of an image.
func (f *Fake) OnRemove(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onRemove = do
}

// Tag gives an image another name, as a person does.
func (f *Fake) Tag(name, another string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images[another] = f.images[name]
}

// Images implements container.Runtime.
func (f *Fake) Images(context.Context) ([]container.StoredImage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := map[string][]string{}
	for _, id := range f.unnamed {
		names[id] = nil
	}
	for name, id := range f.images {
		names[id] = append(names[id], name)
	}
	list := make([]container.StoredImage, 0, len(names))
	for _, id := range slices.Sorted(maps.Keys(names)) {
		slices.Sort(names[id])
		list = append(list, container.StoredImage{ID: id, Names: names[id], Used: f.uses(id)})
	}
	return list, f.down
}

// uses reports whether a container was made from an image.
func (f *Fake) uses(id string) bool {
	for _, c := range f.containers {
		if c.image == id {
			return true
		}
	}
	return false
}

// RemoveImage implements container.Runtime.
func (f *Fake) RemoveImage(_ context.Context, nameOrID string) error {
	f.mu.Lock()
	removed := func() {}
	defer func() { f.mu.Unlock(); removed() }()
	var names []string
	for name, id := range f.images {
		if name == nameOrID || id == nameOrID {
			names = append(names, name)
		}
	}
	unnamed := slices.Index(f.unnamed, nameOrID)
	switch {
	case f.down != nil || len(names) == 0 && unnamed < 0:
		return f.down
	case len(names) > 1:
		return fmt.Errorf("image %s has the names %v", nameOrID, names)
	case f.uses(nameOrID) || len(names) == 1 && f.uses(f.images[names[0]]) && !f.shared(names[0]):
		return fmt.Errorf("image %s: %w", nameOrID, container.ErrImageInUse)
	}
	f.record("unpull %s", nameOrID)
	if f.onRemove != nil {
		removed = f.onRemove
	}
	for _, name := range names {
		delete(f.images, name)
	}
	if unnamed >= 0 {
		f.unnamed = slices.Delete(f.unnamed, unnamed, unnamed+1)
	}
	return nil
}

// shared reports whether the image of a name has another name, too.
func (f *Fake) shared(name string) bool {
	for other, id := range f.images {
		if other != name && id == f.images[name] {
			return true
		}
	}
	return false
}

// Logins are those of all pulls.
func (f *Fake) Logins() []container.Login {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.logins)
}

// EnsureVolume implements container.Runtime.
func (f *Fake) EnsureVolume(_ context.Context, ref wire.DeploymentRef, name, adopts string, size int64) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.volumes[name]
	switch {
	case f.down != nil:
		return "", f.down
	case ok && v.owner != ref:
		return "", fmt.Errorf("volume %s belongs to %s", name, v.owner)
	case !ok && size > 0:
		return "", fmt.Errorf("making volume %s: %w", name, container.ErrNoLimit)
	case !ok:
		if _, there := f.volumes[adopts]; adopts != "" && !there {
			f.record("volume %s", adopts)
			f.volumes[adopts] = volume{}
		}
		f.record("volume %s", name)
		v = volume{owner: ref, adopts: adopts}
		f.volumes[name] = v
	}
	if _, there := f.volumes[v.adopts]; there {
		return v.adopts, nil
	}
	return name, nil
}

// Volumes implements container.Runtime.
func (f *Fake) Volumes(_ context.Context, ref wire.DeploymentRef) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	names := []string{}
	for name, v := range f.volumes {
		if v.owner == (wire.DeploymentRef{}) || ref != (wire.DeploymentRef{}) && v.owner != ref {
			continue
		}
		if names = append(names, name); v.adopts != "" {
			names = append(names, v.adopts)
		}
	}
	slices.Sort(names)
	return names, f.down
}

// RemoveVolume implements container.Runtime.
func (f *Fake) RemoveVolume(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.volumes[name]; f.down != nil || !ok {
		return f.down
	}
	f.record("unvolume %s", name)
	delete(f.volumes, name)
	return nil
}

// EnsureSecret implements container.Runtime.
func (f *Fake) EnsureSecret(_ context.Context, name string, content []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return f.down
	}
	if _, there := f.secrets[name]; !there {
		f.secrets[name] = slices.Clone(content)
		f.record("secret %s", name)
	}
	return nil
}

// Secrets implements container.Runtime.
func (f *Fake) Secrets(_ context.Context, ref wire.DeploymentRef) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, f.down
	}
	prefix := ""
	if ref != (wire.DeploymentRef{}) {
		prefix = container.ObjectName(ref, "")
	}
	names := []string{}
	for name := range f.secrets {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// RemoveSecret implements container.Runtime.
func (f *Fake) RemoveSecret(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return f.down
	}
	if _, there := f.secrets[name]; there {
		delete(f.secrets, name)
		f.record("unsecret %s", name)
	}
	return nil
}

// Secret returns the content of a secret.
func (f *Fake) Secret(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.secrets[name]
}

// Watch implements container.Runtime.
func (f *Fake) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	f.mu.Lock()
	if f.down != nil {
		f.mu.Unlock()
		return container.ErrUnavailable
	}
	const room = 64 // changes that a watcher may lag behind
	w, broken := make(chan wire.DeploymentRef, room), f.broken
	f.watchers[w] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}()
	ready()
	for {
		select {
		case ref := <-w:
			changed(ref)
		case <-broken:
			return container.ErrUnavailable
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
