package agent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/interpret"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/draw"
)

// How many random stories are told, and how long each is; `make soak` sets more.
var modelSeeds, modelSteps = fromEnv("FLEET_MODEL_SEEDS", 4), fromEnv("FLEET_MODEL_STEPS", 120)

func fromEnv(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// TestAgainstAModel lets a device and its server go through random stories: Deployments
// come, change and go, the connection breaks, the agent and the device restart, containers
// end, podman is away, clocks are set, the server starts anew or is restored from a backup.
// The agent is killed at random moments: what it would have done and written afterwards does
// not happen. Whatever happened, the device comes to run what a model says that is a few lines
// long, never two containers of one service, and deletes no volume. It never says for longer
// than a minute that something runs which does not.
func TestAgainstAModel(t *testing.T) {
	for n := range modelSeeds {
		seed := uint64(n)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			onDevice(t, func(d *device) {
				m := &model{
					device: d, random: rand.New(rand.NewPCG(seed, 0)), online: true, //nolint:gosec // a story that can be told again
					manifest: wire.Version{Epoch: "e0", Term: 1}, server: versions{}, running: versions{}, named: map[wire.DeploymentRef]string{}, lies: map[wire.DeploymentRef]time.Time{},
				}
				for step := 0; step < modelSteps && !t.Failed(); step++ {
					m.step()
					if step%10 == 9 {
						m.check()
					}
				}
				t.Logf("%d kills", m.kills)
			})
		})
	}
}

// versions says which version of each service of each Deployment there is.
type versions map[wire.DeploymentRef]map[string]int

func (v versions) clone() versions {
	c := versions{}
	for ref, services := range v {
		c[ref] = maps.Clone(services)
	}
	return c
}

// model is what should become of it all.
type model struct {
	*device

	random *rand.Rand
	story  []string
	// server is what the server wants the device to run, manifest its version, backup what
	// it wanted at some time before.
	server, backup versions
	manifest       wire.Version
	epochs, next   int
	online         bool
	// running is what the device should run, and named by which epoch each was named last.
	running versions
	named   map[wire.DeploymentRef]string
	// fetched is what the device last fetched.
	fetched wire.Version
	kills   int
	// lies has since when each Deployment is said to run that does not.
	lies map[wire.DeploymentRef]time.Time
}

var modelRefs = []wire.DeploymentRef{{Namespace: "shop", Name: "web"}, {Namespace: "shop", Name: "api"}, {Namespace: "plant", Name: "web"}}

// step does something at random, and leaves the device a moment to take notice.
func (m *model) step() {
	m.t.Helper()
	step := draw.One(m.random,
		draw.May("put", 6, m.put),
		draw.May("delete", 3, func() { delete(m.server, m.ref()); m.issue() }),
		draw.May("restart of the agent", 3, m.restart),
		draw.May("kill of the agent", 3, func() { m.kill(func() {}) }),
		draw.May("power cut", 2, m.reboot),
		draw.May("power cut at work", 2, func() { m.kill(m.cut) }),
		draw.May("partition", 3, func() { m.online = false; m.gateway.setOffline(true) }),
		draw.May("healing", 4, func() { m.online = true; m.gateway.setOffline(false) }),
		draw.May("new term", 1, func() { m.manifest.Term, m.manifest.Seq = m.manifest.Term+1, 0; m.issue() }),
		draw.May("backup", 1, func() { m.backup = m.server.clone() }),
		draw.May("restore", 1, m.restore),
		draw.May("confirmation", 1, m.confirm),
		draw.May("put while podman is away", 2, m.putWithoutPodman),
		draw.May("put while the registry is away", 2, m.putWithoutRegistry),
		draw.May("end of a container", 3, m.end),
		draw.May("loss of a process", 2, func() { m.podman.Vanish(m.name()) }),
		draw.May("clock", 2, func() { m.podman.SetClock(time.Duration(m.random.IntN(200)-100) * time.Hour) }),
		draw.May("a while", 2, func() { m.pass(time.Duration(m.random.IntN(1200)) * time.Second) }),
	)
	m.story = append(m.story, step.Name)
	step.Do()
	m.pass(time.Duration(m.random.IntN(8)) * time.Second)
	m.never()
	m.pass(2 * time.Second)
	if m.online && m.fetched != m.manifest {
		m.fetch()
	}
}

// putWithoutPodman leaves the agent the time to try again what it could not do.
func (m *model) putWithoutPodman() {
	m.podman.SetDown(true)
	m.put()
	m.pass(time.Duration(m.random.IntN(300)) * time.Second)
	m.podman.SetDown(false)
	m.pass(2 * time.Minute)
}

// putWithoutRegistry makes Deployments whose image does not come, and cuts the power
// meanwhile: what ran and is still wanted runs again, while the pull is waited for.
func (m *model) putWithoutRegistry() {
	r := make(registry)
	m.podman.SetPull(r.pull)
	m.put()
	m.pass(time.Duration(m.random.IntN(60)) * time.Second)
	before := m.wanted()
	m.reboot()
	m.gateway.setOffline(!m.online) // a nudge may have gone to the agent of before
	m.pass(6 * time.Minute)         // one that ended often waits for up to five
	for name := range before {
		if !m.wanted()[name] {
			m.t.Errorf("%s ran before the power cut, and does not while an image is waited for", name)
		}
	}
	close(r) // by which each pull succeeds
	m.podman.SetPull(nil)
	m.pass(2 * time.Minute)
}

// wanted are the services that run and that the device was and is to run.
func (m *model) wanted() map[string]bool {
	names := map[string]bool{}
	for _, c := range m.podman.Running() {
		if _, was := m.running[c.Ref][c.Service]; was && !c.Gone && !c.Odd() {
			if _, is := m.server[c.Ref][c.Service]; is {
				names[container.ObjectName(c.Ref, c.Service)] = true
			}
		}
	}
	return names
}

func (m *model) ref() wire.DeploymentRef { return modelRefs[m.random.IntN(len(modelRefs))] }

// put makes a Deployment, or changes a service of it.
func (m *model) put() {
	ref := m.ref()
	if m.server[ref] == nil {
		m.server[ref] = map[string]int{}
	}
	m.next++
	m.server[ref][[]string{"front", "back"}[m.random.IntN(2)]] = m.next
	m.issue()
}

// issue gives the device another manifest.
func (m *model) issue() {
	m.manifest.Seq++
	issued := deployments{}
	for ref, services := range m.server {
		issued[ref] = servicesOf(services)
	}
	m.gateway.issueAs(m.manifest, issued)
}

func servicesOf(of map[string]int) services {
	all := services{}
	for name, version := range of {
		all[name] = func(s *score.Service) { *s = serviceOf(name, version) }
	}
	return all
}

// imageEvery is which versions of a service come with an image of their own.
const imageEvery = 3

func serviceOf(name string, version int) score.Service {
	from := image
	if version%imageEvery == 0 {
		from = fmt.Sprintf("localhost/app:%d", version)
	}
	return score.Service{
		Name: name, Image: from, Command: []string{fmt.Sprint("version ", version)}, Volumes: []score.Volume{{Name: name, MountPath: "/data"}},
	}
}

// restore sets the server back to its backup, which makes another epoch.
func (m *model) restore() {
	m.server = m.backup.clone()
	m.epochs++
	m.manifest = wire.Version{Epoch: fmt.Sprint("e", m.epochs), Term: 1}
	m.issue()
}

// fetch is what the device does with a manifest: what that names it runs, and of what it
// does not name it keeps what another epoch named last.
func (m *model) fetch() {
	m.fetched = m.manifest
	for ref, services := range m.server {
		m.running[ref], m.named[ref] = maps.Clone(services), m.manifest.Epoch
	}
	for ref := range m.running {
		if _, there := m.server[ref]; !there && m.named[ref] == m.manifest.Epoch {
			delete(m.running, ref)
		}
	}
}

// confirm lets what the device keeps of other epochs go.
func (m *model) confirm() {
	_, err := m.agent.ConfirmEpoch()
	m.must(err)
	for ref := range m.running {
		if m.named[ref] != m.fetched.Epoch {
			delete(m.running, ref)
		}
	}
}

func (m *model) reboot() {
	m.stop()
	m.cut()
	m.start()
}

func (m *model) cut() {
	m.podman.Cut()
	m.boot, m.on = m.boot+"+", time.Now().Add(-time.Minute)
}

// kill ends the agent in the midst of a change, after one of the first steps of that or at
// some moment, and does more before another one starts. The directory of the state goes
// away at that moment, so that what is written afterwards goes nowhere.
func (m *model) kill(more func()) {
	m.kills++
	aside := m.dir + ".killed"
	die := sync.OnceValue(func() error { m.gateway.setOffline(true); return os.Rename(m.dir, aside) })
	m.podman.DownAfterChanges(1+m.random.IntN(8), func() { _ = die() })
	m.put()
	m.pass(time.Duration(m.random.IntN(10000)) * time.Millisecond)
	m.must(die())
	m.podman.SetDown(true)
	m.stop()
	m.must(errors.Join(os.RemoveAll(m.dir), os.Rename(aside, m.dir)))
	m.podman.SetDown(false)
	more()
	m.start()
	m.gateway.setOffline(!m.online)
	m.pass(2 * time.Minute)
}

func (m *model) end() { m.podman.Exit(m.name(), m.random.IntN(2)) }

// name is that of a container that may be there.
func (m *model) name() string {
	return container.ObjectName(m.ref(), []string{"front", "back"}[m.random.IntN(2)])
}

// never checks what is true at each moment.
func (m *model) never() {
	m.t.Helper()
	if twice := m.podman.Twice(); len(twice) > 0 {
		m.t.Errorf("two containers ran at one time: %v", twice)
	}
	for _, call := range m.podman.Calls() {
		if strings.HasPrefix(call, "unvolume") {
			m.t.Errorf("data was deleted: %s", call)
		}
	}
	m.tell()
}

// pass lets time pass, and looks at what the device says meanwhile.
func (m *model) pass(t time.Duration) {
	m.t.Helper()
	for t > 0 {
		m.device.pass(min(t, 20*time.Second))
		t -= 20 * time.Second
		m.truth()
	}
}

// truth checks that what the server is told to run runs, or did less than a minute ago,
// unless it is told that podman does not answer.
func (m *model) truth() {
	m.t.Helper()
	up := map[string]bool{}
	for _, c := range m.podman.Running() {
		up[c.Hash+" "+c.Ref.String()+" "+c.Service] = !c.Gone
	}
	for ref, services := range m.server {
		lie := m.online && m.reports(ref) && m.gateway.condition(wire.ConditionPodmanReady).Status == wire.ConditionTrue
		for _, s := range m.specs(ref, services) {
			lie = lie && !up[s.Hash+" "+ref.String()+" "+s.Service]
		}
		since, before := m.lies[ref]
		switch {
		case !lie:
			delete(m.lies, ref)
		case !before:
			m.lies[ref] = time.Now()
		case time.Since(since) > time.Minute:
			m.t.Errorf("%s is said to run since %s and does not", ref, time.Since(since))
		}
	}
}

// reports tells whether the device says that the present version of a Deployment runs.
func (m *model) reports(ref wire.DeploymentRef) bool {
	entry, ok := m.gateway.manifest.Find(ref)
	if !ok {
		return false
	}
	s := m.gateway.state(ref)
	return s.Phase == wire.PhaseRunning && s.Hash == entry.Hash
}

// specs are the containers that the services of a Deployment ask for.
func (m *model) specs(ref wire.DeploymentRef, services map[string]int) []container.Spec {
	m.t.Helper()
	asked := score.PodmanV0{}
	for name, version := range services {
		asked.Services = append(asked.Services, serviceOf(name, version))
	}
	data, err := json.Marshal(asked)
	m.must(err)
	w, err := interpret.PodmanV0(ref, data)
	m.must(err)
	return w.Services
}

// check lets the device come to rest, and compares it with the model: mostly as soon as it
// is right, now and then after a longer rest.
func (m *model) check() {
	m.t.Helper()
	const most = 15
	least := []int{1, 1, 1, most}[m.random.IntN(4)]
	var wrong []string
	for minute := 1; minute <= most; minute++ {
		m.pass(time.Minute)
		if wrong = m.wrong(); len(wrong) == 0 && minute >= least {
			break
		}
	}
	for _, w := range wrong {
		m.t.Error(w)
	}
	m.never()
}

// wrong is what differs from the model.
func (m *model) wrong() (all []string) {
	m.t.Helper()
	want, got := []string{}, []string{}
	for ref, services := range m.running {
		for _, s := range m.specs(ref, services) {
			want = append(want, s.Name()+" "+s.Hash)
		}
	}
	list, err := m.podman.List(m.t.Context(), wire.DeploymentRef{})
	m.must(err)
	for _, c := range list {
		got = append(got, c.Name+" "+c.Hash)
		if c.State != container.StateRunning || c.Gone {
			all = append(all, fmt.Sprintf("%s is %s", c.Name, c.State))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		all = append(all, fmt.Sprintf("it runs %v, want %v", got, want))
	}
	for ref := range m.running {
		if s := m.gateway.state(ref); m.online && s.Phase != wire.PhaseRunning {
			all = append(all, fmt.Sprintf("%s is reported as %s %q", ref, s.Phase, s.Error))
		}
	}
	return all
}

// tell tells the story of a failure.
func (m *model) tell() {
	if m.t.Failed() {
		const last = 60 // the seed tells the rest
		m.t.Fatalf("after %d steps, the last of which: %s", len(m.story), strings.Join(m.story[max(0, len(m.story)-last):], ", "))
	}
}
