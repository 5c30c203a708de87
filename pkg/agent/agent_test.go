package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent"
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/bind"
	"fleet.nationtech.io/fleet/pkg/agent/container/containertest"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	web = wire.DeploymentRef{Namespace: "shop", Name: "web"}
	api = wire.DeploymentRef{Namespace: "shop", Name: "api"}

	errOffline = errors.New("no connection")
)

const image = "localhost/app:1"

// gateway is a server in memory, seen through agent.Link.
type gateway struct {
	t         *testing.T
	connected chan struct{}
	nudges    chan struct{}

	mu       sync.Mutex // guards what follows
	offline  bool
	manifest *wire.Manifest
	bodies   map[string][]byte
	// inits are the init containers of every Deployment.
	inits []score.Service
	// secrets are those that may be fetched, by "<namespace>/<name>".
	// answers is the digest that the gateway's Secrets belong to; empty for one that does
	// not tell.
	answers string
	secrets map[string]map[string][]byte
	// registry is the answer about credentials.
	registry  *wire.RegistryReply
	info      []byte
	states    map[wire.DeploymentRef][]byte
	history   map[wire.DeploymentRef][]wire.Phase
	snapshots int
	reports   int
	beats     int
	servers   []string
	refuseAll *wire.Refusal
	// refuseStates refuses reports only.
	refuseStates *wire.Refusal
	// network is that of all Deployments; nil for none.
	network *score.Network
	// progress are the texts of all reports.
	progress []string
	// nonce is given with every reply; nonces are those of the requests.
	nonce  string
	nonces []string
	// capabilities are those of the last request.
	capabilities []string

	revocations chan wire.Revocation
	// rare: the link was told to ask rarely.
	rare bool
	// revoke is what credentials tell the agent.
	revoke func(wire.Revocation)
	status credential.Status
}

func newGateway(t *testing.T) *gateway {
	return &gateway{
		t: t, connected: make(chan struct{}, 1), nudges: make(chan struct{}, 1),
		revocations: make(chan wire.Revocation, 1), bodies: map[string][]byte{}, states: map[wire.DeploymentRef][]byte{}, history: map[wire.DeploymentRef][]wire.Phase{},
	}
}

// services maps a service name to what is peculiar about it.
type services map[string]func(*score.Service)

// issue makes a manifest of the next version that names the given Deployments.
func (g *gateway) issue(epoch string, deployments map[wire.DeploymentRef]services) {
	version := wire.Version{Epoch: epoch, Term: 1, Seq: 1}
	g.look(func() {
		if g.manifest != nil && g.manifest.Epoch == epoch {
			version.Seq = g.manifest.Seq + 1
		}
	})
	g.issueAs(version, deployments)
}

// issueAs makes a manifest of a version.
func (g *gateway) issueAs(version wire.Version, deployments map[wire.DeploymentRef]services) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := &wire.Manifest{Version: version, Complete: true}
	for _, ref := range slices.SortedFunc(maps.Keys(deployments), wire.DeploymentRef.Compare) {
		next.Entries = append(next.Entries, g.entry(ref, score.TypePodmanV0, g.body(deployments[ref])))
	}
	g.manifest = next
	select {
	case g.nudges <- struct{}{}:
	default:
	}
}

// entry is that of a Deployment, whose body can be fetched from now on. The caller
// holds mu.
func (g *gateway) entry(ref wire.DeploymentRef, scoreType string, body []byte) wire.Entry {
	hash := wire.Sum(body).String()
	g.bodies[hash] = body
	return wire.Entry{DeploymentRef: ref, Type: scoreType, Hash: hash, Size: len(body)}
}

func (g *gateway) body(s services) []byte {
	p := score.PodmanV0{InitContainers: g.inits, Network: g.network}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		svc := score.Service{Name: name, Image: image}
		if s[name] != nil {
			s[name](&svc)
		}
		p.Services = append(p.Services, svc)
	}
	data, err := json.Marshal(p)
	if err != nil {
		g.t.Fatal(err)
	}
	body, err := score.Canonical(score.TypePodmanV0, data)
	if err != nil {
		g.t.Fatal(err)
	}
	return body
}

// edit changes the manifest that is issued already.
func (g *gateway) edit(f func(*wire.Manifest)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := *g.manifest
	next.Entries = slices.Clone(g.manifest.Entries)
	next.Seq++
	f(&next)
	g.manifest = &next
	select {
	case g.nudges <- struct{}{}:
	default:
	}
}

func (g *gateway) setOffline(offline bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.offline = offline
	if !offline {
		select {
		case g.connected <- struct{}{}:
		default:
		}
	}
}

func (g *gateway) reachable() error {
	switch {
	case g.offline:
		return errOffline
	case g.refuseAll != nil:
		return g.refuseAll
	}
	return nil
}

func (g *gateway) Snapshot(_ context.Context, req wire.SnapshotRequest) (*wire.SnapshotReply, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.snapshots++
	if err := g.reachable(); err != nil {
		return nil, err
	}
	g.nonces, g.capabilities = append(g.nonces, req.Nonce), req.Capabilities
	reply := &wire.SnapshotReply{Status: wire.SnapshotManifest, Manifest: g.manifest, Nonce: g.nonce}
	switch {
	case g.manifest == nil:
		reply.Status = wire.SnapshotRetryLater
	case req.Have == g.manifest.Version:
		reply.Status, reply.Manifest = wire.SnapshotNotModified, nil
	}
	if wire.Sum(g.info).String() != req.InfoHash {
		reply.Want = append(reply.Want, wire.WantInfo)
	}
	digests := map[wire.DeploymentRef]wire.Digest{}
	for ref, raw := range g.states {
		digests[ref] = wire.Sum(raw)
	}
	if wire.StateHash(digests) != req.StateHash {
		reply.Want = append(reply.Want, wire.WantState)
	}
	return reply, nil
}

func (g *gateway) Registry(context.Context) (*wire.RegistryReply, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.registry == nil {
		return nil, errOffline
	}
	return g.registry, nil
}

func (g *gateway) Secret(_ context.Context, ref wire.DeploymentRef, name string) (map[string][]byte, string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.reachable(); err != nil {
		return nil, "", err
	}
	data, ok := g.secrets[ref.Namespace+"/"+name]
	if !ok {
		return nil, "", &wire.Refusal{Code: wire.RefusedNotFound, Message: "no such Secret"}
	}
	return data, g.answers, nil
}

func (g *gateway) Body(_ context.Context, hash string, size int) ([]byte, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.reachable(); err != nil {
		return nil, err
	}
	body, ok := g.bodies[hash]
	if !ok || len(body) != size {
		return nil, &wire.Refusal{Code: wire.RefusedNotFound, Message: "no such body"}
	}
	return body, nil
}

func (g *gateway) SendInfo(_ context.Context, payload []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.reachable(); err != nil {
		return err
	}
	g.info = payload
	return nil
}

func (g *gateway) SendState(_ context.Context, payload []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.reachable(); err != nil {
		return err
	}
	g.reports++
	if g.refuseStates != nil {
		return g.refuseStates
	}
	s, err := wire.DecodeState(payload)
	if err != nil {
		g.t.Error(err)
	}
	g.history[s.DeploymentRef] = append(g.history[s.DeploymentRef], s.Phase)
	g.progress = append(g.progress, s.Progress)
	g.states[s.DeploymentRef] = payload
	if s.Phase == wire.PhaseRemoved {
		delete(g.states, s.DeploymentRef)
	}
	return nil
}

func (g *gateway) Heartbeat(wire.Heartbeat) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.beats++
	return g.reachable()
}

func (g *gateway) Connected() <-chan struct{} { return g.connected }

func (g *gateway) Nudges() <-chan struct{} { return g.nudges }

func (g *gateway) Revocations() <-chan wire.Revocation { return g.revocations }

func (g *gateway) Rarely() { g.look(func() { g.rare = true }) }

func (g *gateway) Reconnect() error { return nil }
func (g *gateway) Session() string  { return "00000000000000a1" }

// Run and Status implement agent.Credentials.
func (g *gateway) Run(ctx context.Context, _ credential.Link, revoked func(wire.Revocation)) {
	g.look(func() { g.revoke = revoked })
	<-ctx.Done()
}

func (g *gateway) Status() credential.Status { return g.status }

func (g *gateway) Server() (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return "tls://gateway:4222", g.reachable()
}

func (g *gateway) SetServers(servers []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.servers = servers
	return nil
}

// state returns the report that the server has about a Deployment.
func (g *gateway) state(ref wire.DeploymentRef) (s wire.DeploymentState) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	raw, ok := g.states[ref]
	if !ok {
		return s
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		g.t.Fatal(err)
	}
	return s
}

// look runs f while the gateway stands still.
func (g *gateway) look(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// phases lists the phases that were reported of a Deployment.
func (g *gateway) phases(ref wire.DeploymentRef) (phases []wire.Phase) {
	g.look(func() { phases = slices.Clone(g.history[ref]) })
	return phases
}

// raw returns the report about a Deployment as it was sent.
func (g *gateway) raw(ref wire.DeploymentRef) (raw string) {
	g.look(func() { raw = string(g.states[ref]) })
	return raw
}

func (g *gateway) condition(typ string) wire.Condition {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	var info wire.DeviceInfo
	if g.info != nil {
		if err := json.Unmarshal(g.info, &info); err != nil {
			g.t.Fatal(err)
		}
	}
	for _, c := range info.Conditions {
		if c.Type == typ {
			return c
		}
	}
	return wire.Condition{}
}

// device is a device under test, in a bubble of fake time.
type device struct {
	t       *testing.T
	dir     string
	gateway *gateway
	podman  *containertest.Fake
	roots   []string
	agent   *agent.Agent
	stop    func()
	// done is closed when the agent's Run has returned.
	done chan struct{}
	// enrollment is the id of the device's present enrollment.
	enrollment string
	// trusted are the registries that the runtime was made to trust.
	trusted []string
	health  func(container.Info, error) []wire.Condition
	// further drivers stand beside that of containers.
	further []workload.Driver
	// boot is the present start of the device, which was at the time on.
	boot  string
	on    time.Time
	runs  runs.Keeper
	ports ports
	// images remembers which images were pulled; prune says which go.
	images, jobs, volumes runs.Keeper
	prune                 driver.Prune
	allow                 driver.Allow
	mirror                driver.Mirror
	names                 driver.Names
	listens               func(port uint16, udp bool) string
	// lacks is what the device itself lacks for a restart.
	lacks []string
	// locks: the agent keeps others out of its state, as one does that runs for real.
	locks bool
	// driver is that of containers of the agent that runs.
	driver *driver.Driver
}

// onDevice runs a test in a bubble, with an agent that is connected.
func onDevice(t *testing.T, test func(*device)) {
	t.Helper()
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	synctest.Test(t, func(t *testing.T) {
		d := &device{t: t, dir: dir, gateway: newGateway(t), podman: containertest.NewFake(image), boot: "first", on: time.Now()}
		d.gateway.setOffline(false)
		d.start()
		defer func() { d.stop() }()
		test(d)
	})
}

// containers returns the driver of containers.
func (d *device) containers() *driver.Driver {
	return driver.New(driver.Config{
		Runtime: d.podman, Registry: d.gateway,
		TrustRegistry: func(registry string) error { d.trusted = append(d.trusted, registry); return nil },
		Dialer:        &d.ports,
		Binds:         bind.Policy{Roots: d.roots, Forbidden: []string{d.dir}}, Allow: d.allow,
		Runs: d.runs, Images: d.images, Jobs: d.jobs, Volumes: d.volumes, Prune: d.prune, Mirror: d.mirror, Names: d.names, Monitors: d.podman, Listens: d.listens,
		Uptime:  func() runs.Moment { return runs.Moment{Boot: d.boot, Uptime: time.Since(d.on)} },
		Log:     slog.New(slog.DiscardHandler),
		Crashes: crashes.New(filepath.Join(d.dir, "crashes"), nil, slog.New(slog.DiscardHandler)),
	})
}

// start starts an agent on what the device has.
func (d *device) start() {
	d.t.Helper()
	state, err := store.Open(d.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		d.t.Fatal(err)
	}
	if d.locks {
		if err := state.Lock(); err != nil {
			d.t.Fatal(err)
		}
	}
	d.runs, d.images, d.jobs, d.volumes = state.Notes("containers"), state.Notes("images"), state.Notes("jobs"), state.Notes("volumes")
	containers := d.containers()
	d.driver = containers
	drivers, err := workload.NewDrivers(append(d.further, containers)...)
	if err != nil {
		d.t.Fatal(err)
	}
	var health func() []wire.Condition
	if d.health != nil {
		health = func() []wire.Condition { return d.health(containers.Info()) }
	}
	d.agent = agent.New(agent.Config{
		Device: "pi-1", Enrollment: d.enrollment, Version: "v1", Servers: []string{"tls://gateway:4222"}, Link: d.gateway, Credentials: d.gateway, Store: state,
		Drivers:           drivers,
		Facts:             func() wire.Inventory { return wire.Inventory{Hostname: "pi"} },
		Health:            health,
		Restart:           func() (lacks []string) { d.gateway.look(func() { lacks = d.lacks }); return lacks },
		HeartbeatInterval: 30 * time.Second, SnapshotInterval: 15 * time.Minute,
		Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	ready := make(chan struct{})
	go func() {
		defer close(done)
		d.agent.Run(ctx, func() { close(ready) })
	}()
	<-ready
	d.done = done
	d.stop = func() { cancel(); <-done; state.Close() }
	d.settle()
}

// settle lets everything happen until what started is ready.
func (d *device) settle() { d.pass(plan.DefaultMinReady + time.Second) }

func (d *device) pass(t time.Duration) {
	time.Sleep(t)
	synctest.Wait()
}

func (d *device) restart() { d.stop(); d.start() }

func (d *device) expectCalls(want ...string) {
	d.t.Helper()
	if diff := cmp.Diff(want, d.podman.Calls()); diff != "" {
		d.t.Errorf("calls of podman: %s", diff)
	}
}

// expectCallsInAnyOrder is for what happens side by side.
func (d *device) expectCallsInAnyOrder(want ...string) {
	d.t.Helper()
	got := d.podman.Calls()
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Errorf("calls of podman: %s", diff)
	}
}

func (d *device) expectPhase(ref wire.DeploymentRef, phase wire.Phase, text string) {
	d.t.Helper()
	s := d.gateway.state(ref)
	if s.Phase != phase || !strings.Contains(s.Error, text) {
		d.t.Errorf("%s is reported as %s, want %s %q", ref, d.gateway.raw(ref), phase, text)
	}
}

func onPort(port int) func(*score.Service) {
	return func(s *score.Service) { s.Ports = []score.Port{{HostPort: port, ContainerPort: 80}} }
}

func command(words ...string) func(*score.Service) {
	return func(s *score.Service) { s.Command = words }
}

// What replaces the container of service front, when it has no port and is alone, or in a
// network with others.
var (
	prepared       = []string{"create shop_web_front_next", "init shop_web_front_next"}
	preparedBeside = []string{"create shop_web_front_trial", "init shop_web_front_trial", "remove shop_web_front_trial", "create shop_web_front_next"}
	swapped        = []string{"stop shop_web_front", "start shop_web_front_next", "remove shop_web_front", "rename shop_web_front"}
)

type deployments = map[wire.DeploymentRef]services

func TestDeploymentComesAndGoes(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}})
		d.settle()
		d.expectCalls("network shop_web", "create shop_web_back", "start shop_web_back", "create shop_web_front", "start shop_web_front")
		d.expectPhase(web, wire.PhaseRunning, "")
		if s := d.gateway.state(web); s.Hash != d.gateway.manifest.Entries[0].Hash || len(s.Containers) != 2 {
			t.Errorf("report %+v", s)
		}
		d.gateway.issue("e1", nil)
		d.settle()
		d.expectCallsInAnyOrder("stop shop_web_back", "remove shop_web_back", "stop shop_web_front", "remove shop_web_front", "unnetwork shop_web")
		phases := slices.DeleteFunc(d.gateway.phases(web), func(p wire.Phase) bool { return p == wire.PhasePending })
		if diff := cmp.Diff([]wire.Phase{wire.PhaseRunning, wire.PhaseRemoved}, phases); diff != "" {
			t.Error(diff)
		}
		if s := d.agent.Status(); len(s.Deployments) > 0 {
			t.Errorf("the agent still knows %+v", s.Deployments)
		}
	})
}

func TestAnIdleAgentDoesNothing(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		reports := len(d.gateway.phases(web))
		d.pass(24 * time.Hour)
		d.expectCalls()
		if got := len(d.gateway.phases(web)); got != reports {
			t.Errorf("%d more reports in a quiet day", got-reports)
		}
		var snapshots, beats int
		d.gateway.look(func() { snapshots, beats = d.gateway.snapshots, d.gateway.beats })
		if n := snapshots; n < 24*4/2 || n > 24*4*2 {
			t.Errorf("%d snapshot requests in a day", n)
		}
		if n := beats; n < 2800 || n > 2900 {
			t.Errorf("%d heartbeats in a day", n)
		}
	})
}

func TestOnlyTheChangedServiceIsReplacedOnce(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil, "back": nil}, api: {"one": nil}})
		d.settle()
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": command("new"), "back": nil}, api: {"one": nil}})
		d.pass(time.Hour)
		d.expectCalls(slices.Concat(preparedBeside, swapped)...)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestImageIsPulledBeforeTheOldContainerStops(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.podman.PullFunc = func(_ context.Context, image string) error {
			return fmt.Errorf("manifest of %s unknown: %w", image, container.ErrImage)
		}
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) { s.Image = "localhost/app:2" }}})
		d.pass(time.Hour)
		d.expectCalls() // what runs goes on
		d.expectPhase(web, wire.PhaseFailed, "manifest of localhost/app:2 unknown")
		if phases := d.gateway.phases(web); len(phases) > 4 {
			t.Errorf("every attempt is reported: %v", phases)
		}
		d.gateway.issue("e1", deployments{web: {"front": command("fixed")}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestAPullThatHangsDelaysNobodyAndIsSuperseded(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.PullFunc = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) { s.Image = "localhost/slow:1" }}, api: {"one": nil}})
		d.settle()
		d.expectPhase(api, wire.PhaseRunning, "")
		d.expectPhase(web, wire.PhasePending, "")
		d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"one": nil}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestAgentStartsFromItsLastGoodManifest(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		before := d.gateway.state(web)
		d.podman.Calls()
		d.gateway.setOffline(true)
		d.stop()
		d.podman.Exit("shop_web_front", 0)
		d.start()
		d.pass(10 * time.Second)
		d.expectCalls("start shop_web_front")
		d.gateway.setOffline(false)
		d.settle()
		if after := d.gateway.state(web); after.Phase != wire.PhaseRunning || !after.LastEventAt.After(before.LastEventAt) {
			t.Errorf("reported as %+v", after)
		}
	})
}

func TestRestartOfTheAgentChangesNothing(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		before := d.gateway.raw(web)
		d.podman.Calls()
		d.pass(time.Hour)
		d.restart()
		d.gateway.setOffline(false) // connects again
		d.settle()
		d.expectCalls()
		if diff := cmp.Diff(before, d.gateway.raw(web)); diff != "" {
			t.Errorf("the report changed: %s", diff)
		}
	})
}

func TestDeletedWhileTheDeviceWasOff(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.stop()
		d.gateway.issue("e1", nil)
		d.gateway.setOffline(false)
		d.start()
		d.expectCalls("stop shop_web_front", "remove shop_web_front")
		if d.gateway.raw(web) != "" {
			t.Error("the server was not told")
		}
	})
}

func TestNewEpochHoldsOmissionsUntilConfirmed(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.gateway.issue("e2", deployments{api: {"one": nil}})
		d.pass(time.Hour)
		d.expectCalls("create shop_api_one", "start shop_api_one")
		if c := d.gateway.condition(wire.ConditionManifestHeld); c.Status != wire.ConditionTrue || !strings.Contains(c.Message, web.String()) {
			t.Errorf("condition %+v", c)
		}
		d.gateway.issue("e2", deployments{api: {"one": command("b")}})
		d.settle()
		d.podman.Calls()
		d.restart() // what is held survives
		d.expectCalls()
		got, err := d.agent.ConfirmEpoch()
		if err != nil || got.Epoch != "e2" || !slices.Equal(got.Leaving, []wire.DeploymentRef{web}) {
			t.Errorf("confirmation %+v: %v", got, err)
		}
		d.settle()
		d.expectCalls("stop shop_web_front", "remove shop_web_front")
		d.gateway.setOffline(false)
		d.settle()
		if c := d.gateway.condition(wire.ConditionManifestHeld); c.Status != wire.ConditionFalse {
			t.Errorf("condition %+v", c)
		}
	})
}

func TestOlderOrInvalidManifestChangesNothing(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.gateway.edit(func(m *wire.Manifest) { m.Seq = 9 })
		d.settle()
		d.podman.Calls()
		d.gateway.edit(func(m *wire.Manifest) { m.Seq, m.Entries = 3, nil })
		d.settle()
		d.expectCalls()
		if c := d.gateway.condition(wire.ConditionManifestHeld); c.Reason != "OlderManifest" {
			t.Errorf("condition %+v", c)
		}
		d.gateway.edit(func(m *wire.Manifest) { m.Seq, m.Complete = 10, false })
		d.settle()
		d.expectCalls()
	})
}

func TestHoldKeepsWhatRuns(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.gateway.edit(func(m *wire.Manifest) { m.Entries[0] = wire.Entry{DeploymentRef: web, Hold: true} })
		d.settle()
		d.expectCalls()
		d.podman.Exit("shop_web_front", 1)
		d.pass(10 * time.Second)
		d.expectCalls("start shop_web_front") // it is kept running, too
	})
}

func TestLostStateKeepsContainersUntilConfirmed(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.stop()
		d.dir += "-replaced"
		d.podman.Calls()
		d.gateway.issue("e1", nil)
		d.gateway.setOffline(false)
		d.start()
		d.pass(time.Hour)
		d.expectCalls()
		if diff := cmp.Diff([]wire.DeploymentRef{web}, d.agent.Status().Held); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBodyThatCannotBeFetchedKeepsWhatRuns(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": command("new")}})
		hash := d.gateway.manifest.Entries[0].Hash
		var body []byte
		d.gateway.look(func() { body = d.gateway.bodies[hash]; delete(d.gateway.bodies, hash) })
		d.settle()
		d.expectCalls()
		d.expectPhase(web, wire.PhaseFailed, "no such body")
		d.podman.Exit("shop_web_front", 1)
		d.pass(time.Minute)
		d.expectCalls("start shop_web_front") // the old score is still looked after
		d.gateway.look(func() { d.gateway.bodies[hash] = body })
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestPodmanAwayIsAConditionAndRetried(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.SetDown(true)
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.pass(time.Minute)
		if c := d.gateway.condition(wire.ConditionPodmanReady); c.Status != wire.ConditionFalse || c.Message == "" {
			t.Errorf("condition %+v", c)
		}
		d.podman.SetDown(false)
		d.pass(time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
		if c := d.gateway.condition(wire.ConditionPodmanReady); c.Status != wire.ConditionTrue {
			t.Errorf("condition %+v", c)
		}
	})
}

func TestPortOfAnotherDeployment(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": onPort(80)}})
		d.settle()
		d.gateway.issue("e1", deployments{web: {"front": onPort(80)}, api: {"one": onPort(80)}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectPhase(api, wire.PhaseFailed, "host port 80/tcp is taken by Deployment shop/web")
		d.restart()
		d.gateway.setOffline(false)
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		d.gateway.issue("e1", deployments{web: {"front": onPort(81)}, api: {"one": onPort(80)}})
		d.settle()
		d.expectPhase(api, wire.PhaseRunning, "")
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

func TestContainerChangesAreReportedWithinASecond(t *testing.T) {
	onDevice(t, func(d *device) {
		never := func(s *score.Service) { s.Restart = score.RestartNever }
		d.gateway.issue("e1", deployments{web: {"front": never}})
		d.settle()
		d.podman.Exit("shop_web_front", 3)
		d.pass(time.Second)
		d.expectPhase(web, wire.PhaseFailed, "exited with code 3")
	})
}

// A service that ends at once is started again after ever longer pauses, which an agent
// that starts keeps to.
func TestACrashLoopBacksOff(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.Says("shop_web_front", "no such\nhost: db")
		d.gateway.issue("e1", deployments{web: {"front": command(containertest.ExitCommand, "3")}})
		d.pass(10 * time.Minute)
		starts := slices.DeleteFunc(d.podman.Calls(), func(call string) bool { return call != "start shop_web_front" })
		if n := len(starts); n < 9 || n > 11 {
			t.Errorf("%d starts in ten minutes", n)
		}
		d.expectPhase(web, wire.PhaseFailed, fmt.Sprintf("service front: exited with code 3, %d restarts, last output: no such host: db", len(starts)-1))
		if s := d.gateway.state(web); s.Containers[0].Restarts != len(starts)-1 {
			t.Errorf("report %+v", s)
		}
		if n := len(d.gateway.phases(web)); n > 25 {
			t.Errorf("%d reports in ten minutes", n)
		}
		d.restart()
		d.pass(30 * time.Minute)
		if n := len(d.podman.Calls()); n < 6 || n > 8 {
			t.Errorf("%d starts in half an hour more", n)
		}
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// One that fails once is well again as soon as it has run for a while.
func TestAServiceThatFailsOnce(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Exit("shop_web_front", 1)
		d.pass(500 * time.Millisecond)
		d.expectPhase(web, wire.PhaseFailed, "service front: exited with code 1")
		d.podman.Calls()
		d.pass(time.Second)
		d.expectCalls("start shop_web_front")
		d.pass(plan.Settle - time.Second)
		d.expectPhase(web, wire.PhaseFailed, "service front: exited with code 1, 1 restart")
		d.pass(time.Second)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// Podman restarts what an earlier agent made. When that is a crash loop, this agent
// stops it and takes over.
func TestACrashLoopOfAnEarlierAgent(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.SetPolicy("shop_web_front", container.RestartAlways)
		d.podman.Calls()
		for range 100 { // in 10 s, as podman does
			d.podman.Exit("shop_web_front", 1)
			d.podman.Restart("shop_web_front")
			d.pass(100 * time.Millisecond)
		}
		calls := d.podman.Calls()
		if n := len(calls); n == 0 || calls[0] != "stop shop_web_front" || n > 12 {
			t.Errorf("calls %q", calls)
		}
		d.expectPhase(web, wire.PhaseFailed, "service front: ")
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// After a power cut everything starts at once, and none of it has failed.
func TestAPowerCut(t *testing.T) {
	onDevice(t, func(d *device) {
		never := func(s *score.Service) { s.Restart = score.RestartNever }
		d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"job": never}})
		d.settle()
		d.podman.Exit("shop_api_job", 0)
		d.settle()
		d.podman.Calls()
		d.stop()
		d.podman.Cut()
		d.boot, d.on = "second", time.Now()
		d.start()
		d.expectCalls("start shop_web_front")
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectPhase(api, wire.PhaseRunning, "") // its job is done
		if s := d.gateway.state(web); s.Containers[0].Restarts != 0 {
			t.Errorf("report %+v", s)
		}
	})
}

// What runs goes on when the next version cannot start.
func TestAnUpdateThatCannotStart(t *testing.T) {
	for name, port := range map[string]func(*score.Service){"without ports": func(*score.Service) {}, "with a port": onPort(8080)} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"front": port}})
				d.settle()
				d.podman.Calls()
				d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
					port(s)
					s.Command = []string{containertest.MissingCommand}
				}}})
				d.pass(time.Hour)
				d.expectPhase(web, wire.PhaseFailed, `service front: the new version cannot start, and the previous one goes on: executable file "missing" not found in $PATH`)
				for _, call := range d.podman.Calls() {
					if strings.HasSuffix(call, " shop_web_front") {
						t.Errorf("the previous container is touched: %s", call)
					}
				}
				d.expectNames("shop_web_front")
				d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
					port(s)
					s.Args = []string{"2"}
				}}})
				d.settle()
				d.expectPhase(web, wire.PhaseRunning, "")
				d.expectNames("shop_web_front")
			})
		})
	}
}

// A port may stay in use for a moment after its container ended.
func TestAPortThatLingers(t *testing.T) {
	onDevice(t, func(d *device) {
		d.listens = func(port uint16, udp bool) string { return fmt.Sprintf("nginx.service (%d, %t)", port, udp) }
		d.restart()
		d.gateway.issue("e1", deployments{web: {"front": onPort(8080)}})
		d.settle()
		for _, lingering := range []time.Duration{3 * time.Second, time.Minute} {
			d.podman.Lingering = lingering
			d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
				onPort(8080)(s)
				s.Args = []string{lingering.String()}
			}}})
			d.settle()
			d.settle()
			if lingering < time.Minute {
				d.expectPhase(web, wire.PhaseRunning, "")
				d.expectNames("shop_web_front")
			}
		}
		d.pass(50 * time.Second)
		d.expectPhase(web, wire.PhaseFailed, "service front: the new version does not start: ports[].hostPort: 8080/tcp is taken by nginx.service (8080, false): "+
			"stop that, or choose another hostPort: ")
		d.expectPhase(web, wire.PhaseFailed, "host port in use; the previous version runs again")
		d.expectNames("shop_web_front")
	})
}

// expectNames wants these containers to be there and to run.
func (d *device) expectNames(want ...string) {
	d.t.Helper()
	list, err := d.podman.List(d.t.Context(), wire.DeploymentRef{})
	if err != nil {
		d.t.Fatal(err)
	}
	var names []string
	for _, c := range list {
		if c.State != container.StateRunning {
			d.t.Errorf("%s is %s", c.Name, c.State)
		}
		names = append(names, c.Name)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		d.t.Errorf("containers (-want +got):\n%s", diff)
	}
}

// What ran is put back when the next version starts and then ends, and comes back after
// an agent's restart, too.
func TestAnUpdateThatEndsAtOnce(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		d.gateway.issue("e1", deployments{web: {"front": command(containertest.ExitCommand, "3")}})
		d.settle()
		d.expectPhase(web, wire.PhaseFailed, "service front: the new version exited with code 3, 2 restarts, last output: ")
		d.expectPhase(web, wire.PhaseFailed, "; the previous version runs again, until the next attempt or change")
		d.expectNames("shop_web_front")
		want := []string{
			"create shop_web_front_next", "init shop_web_front_next", "stop shop_web_front", "start shop_web_front_next",
			"start shop_web_front_next", "start shop_web_front_next", "remove shop_web_front_next", "start shop_web_front",
		}
		d.expectCalls(want...)
		d.pass(4 * time.Minute)
		d.expectCalls()
		d.pass(time.Minute + 10*time.Second)
		d.expectCalls(want...) // it is tried again
		d.restart()
		d.settle()
		d.podman.Calls()
		d.expectNames("shop_web_front")
		d.gateway.issue("e1", deployments{web: {"front": nil}}) // which never ended
		d.settle()
		d.expectCalls()
		d.expectPhase(web, wire.PhaseRunning, "")
	})
}

// The power may go between any two steps of a change: a new agent finishes it.
func TestAPowerCutDuringAChange(t *testing.T) {
	steps := []string{"create shop_web_front_next", "init shop_web_front_next", "stop shop_web_front", "start shop_web_front_next", "remove shop_web_front", "rename shop_web_front"}
	for _, last := range steps {
		t.Run(last, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"front": nil}})
				d.settle()
				d.podman.DownAfter(last)
				d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) { s.Args = []string{"2"} }}})
				d.settle()
				d.stop()
				d.podman.Cut()
				d.podman.SetDown(false)
				d.boot, d.on = "second", time.Now()
				d.start()
				d.settle()
				d.expectPhase(web, wire.PhaseRunning, "")
				d.expectNames("shop_web_front")
				list, _ := d.podman.List(t.Context(), web)
				if reported := d.gateway.state(web); len(list) != 1 || reported.Hash != d.gateway.manifest.Entries[0].Hash {
					t.Errorf("report %+v", reported)
				}
			})
		})
	}
}

// A container that the runtime believes in and that is not there is made anew within a
// minute, and one that hangs between two states after its time.
func TestContainersThatAreStuck(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(d *device)
		within time.Duration
	}{
		"no process": {func(d *device) { d.podman.Vanish("shop_web_front") }, time.Minute},
		"stopping":   {func(d *device) { d.podman.Hang("shop_web_front", container.StateStopping) }, 4 * time.Minute},
		"removing":   {func(d *device) { d.podman.Hang("shop_web_front", container.StateRemoving) }, 4 * time.Minute},
		"paused":     {func(d *device) { d.podman.Hang("shop_web_front", container.StatePaused) }, 62 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"front": nil}})
				d.settle()
				d.podman.Calls()
				reports := len(d.gateway.phases(web))
				tt.change(d)
				d.pass(tt.within)
				if phases := d.gateway.phases(web)[reports:]; !slices.Contains(phases, wire.PhaseFailed) {
					t.Errorf("it is reported as %v", phases)
				}
				d.expectCalls("clear shop_web_front", "create shop_web_front", "start shop_web_front")
				d.settle()
				d.expectPhase(web, wire.PhaseRunning, "")
			})
		})
	}
}

// What a person paused has an hour, and goes on afterwards as if nothing had been.
func TestAContainerThatIsPausedForAWhile(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		for range 3 {
			d.podman.Hang("shop_web_front", container.StatePaused)
			d.pass(58 * time.Minute)
			d.expectPhase(web, wire.PhaseFailed, "is paused on the device")
			d.podman.Hang("shop_web_front", container.StateRunning)
			d.pass(2 * time.Minute)
			d.expectPhase(web, wire.PhaseRunning, "")
		}
		d.expectCalls()
	})
}

// A limit that the device cannot keep is named, and what runs goes on.
func TestALimitThatCannotBeKept(t *testing.T) {
	onDevice(t, func(d *device) {
		d.podman.SetControllers("cpu", "pids")
		d.restart()
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.podman.Calls()
		limited := func(s *score.Service) { s.Resources.Limits.Memory = "64Mi" }
		d.gateway.issue("e1", deployments{web: {"front": limited}, api: {"back": limited}})
		d.settle()
		const text = "resources.limits.memory: the kernel of this device does not let containers limit memory: "
		d.expectPhase(web, wire.PhaseFailed, "service front: "+text)
		d.expectPhase(api, wire.PhaseFailed, "service back: "+text)
		d.expectCalls()
		d.expectNames("shop_web_front")
		d.podman.SetControllers("memory")
		d.pass(10 * time.Minute)
		d.expectPhase(web, wire.PhaseRunning, "")
		d.expectPhase(api, wire.PhaseRunning, "")
	})
}

func TestVolumesStayUnlessAsked(t *testing.T) {
	for retention, want := range map[wire.VolumeRetention][]string{
		wire.RetainVolumes: {"stop shop_web_front", "remove shop_web_front"},
		wire.DeleteVolumes: {"stop shop_web_front", "remove shop_web_front", "unvolume shop_web_data"},
	} {
		t.Run(string(retention), func(t *testing.T) {
			onDevice(t, func(d *device) {
				d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
					s.Volumes = []score.Volume{{Name: "data", MountPath: "/data"}}
				}}})
				d.gateway.edit(func(m *wire.Manifest) { m.Entries[0].VolumeRetention = retention })
				d.settle()
				d.expectCalls("volume shop_web_data", "create shop_web_front", "start shop_web_front")
				d.gateway.issue("e1", nil)
				d.settle()
				d.expectCalls(want...)
			})
		})
	}
}

func TestBindMountOfTheStateDirectoryIsRefused(t *testing.T) {
	onDevice(t, func(d *device) {
		d.stop()
		d.roots = []string{filepath.Dir(d.dir)}
		d.start()
		d.gateway.issue("e1", deployments{web: {"front": func(s *score.Service) {
			s.Volumes = []score.Volume{{HostPath: d.dir, MountPath: "/data"}}
		}}})
		d.settle()
		d.expectCalls()
		d.expectPhase(web, wire.PhaseFailed, "bind mount refused")
	})
}

func TestUnknownScoreTypeIsReported(t *testing.T) {
	onDevice(t, func(d *device) {
		body, err := score.Canonical("HelmV9", []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		d.gateway.issue("e1", nil)
		d.gateway.edit(func(m *wire.Manifest) { m.Entries = []wire.Entry{d.gateway.entry(web, "HelmV9", body)} })
		d.settle()
		d.expectPhase(web, wire.PhaseFailed, "unknown score type")
	})
}

func TestServerThatForgotGetsEverythingAgain(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}})
		d.settle()
		d.gateway.look(func() { d.gateway.info, d.gateway.states = nil, map[wire.DeploymentRef][]byte{} })
		d.agent.Refresh()
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		if c := d.gateway.condition(wire.ConditionPodmanReady); c.Status != wire.ConditionTrue {
			t.Errorf("condition %+v", c)
		}
	})
}

// Each server is one that the device connects to, wherever it is.
func TestServersAreBounded(t *testing.T) {
	onDevice(t, func(d *device) {
		const most = 16
		d.gateway.issue("e1", nil)
		d.gateway.edit(func(m *wire.Manifest) {
			for i := range 4 * most {
				m.Servers = append(m.Servers, fmt.Sprintf("tls://10.0.0.%d:4222", i))
			}
		})
		d.settle()
		check := func() {
			if n := len(d.gateway.servers); n != most+1 { // and the configured one
				t.Errorf("%d servers are followed", n)
			}
		}
		d.gateway.look(check)
		d.restart()
		d.gateway.look(check)
	})
}

func TestServersOfTheManifestAreFollowed(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", nil)
		d.gateway.edit(func(m *wire.Manifest) {
			m.Servers = []string{"tls://moved:4222", "nats://plain:4222", "tls://gateway:4222"}
		})
		d.settle()
		want := []string{"tls://gateway:4222", "tls://moved:4222"}
		check := func() {
			if diff := cmp.Diff(want, d.gateway.servers); diff != "" {
				t.Error(diff)
			}
		}
		d.gateway.look(check)
		d.restart()
		d.gateway.look(check)
	})
}

// A report says which revision its body was rendered from, and one of a score that is no template
// says nothing, byte by byte, as servers from before know it.
func TestReportsNameTheRevision(t *testing.T) {
	onDevice(t, func(d *device) {
		d.gateway.issue("e1", deployments{web: {"front": nil}, api: {"back": nil}})
		revision := wire.Sum([]byte("the template of web")).String()
		d.gateway.edit(func(m *wire.Manifest) {
			for i := range m.Entries {
				if m.Entries[i].DeploymentRef == web {
					m.Entries[i].Revision = revision
				}
			}
		})
		d.settle()
		d.expectPhase(web, wire.PhaseRunning, "")
		if s := d.gateway.state(web); s.Revision != revision || s.Hash == "" || s.Hash == revision {
			t.Errorf("it is reported as %s", d.gateway.raw(web))
		}
		if raw := d.gateway.raw(api); strings.Contains(raw, "revision") {
			t.Errorf("it is reported as %s", raw)
		}
		for _, s := range d.agent.Status().Deployments {
			if (s.DeploymentRef == web) != (s.Revision == revision) {
				t.Errorf("its status is %+v", s)
			}
		}
	})
}
