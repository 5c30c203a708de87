package agent_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/interpret"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// How many random stories are told, and how long each is; `make soak` sets more.
var modelSeeds, modelSteps = fromEnv("FLEET_MODEL_SEEDS", 6), fromEnv("FLEET_MODEL_STEPS", 150)

func fromEnv(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// TestAgainstAModel lets a device and its server go through random stories: Deployments
// come, change and go, the connection breaks, the agent and the device restart, containers
// end, podman is away, clocks are set, the server starts anew or is restored from a backup.
// Whatever happened, the device comes to run what a model says that is a few lines long,
// never two containers of one service, and deletes no volume.
func TestAgainstAModel(t *testing.T) {
	for n := range modelSeeds {
		seed := uint64(n)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			onDevice(t, func(d *device) {
				m := &model{
					device: d, random: rand.New(rand.NewPCG(seed, 0)), online: true, //nolint:gosec // a story that can be told again
					manifest: wire.Version{Epoch: "e0", Term: 1}, server: versions{}, running: versions{}, named: map[wire.DeploymentRef]string{},
				}
				for step := 0; step < modelSteps && !t.Failed(); step++ {
					m.step()
					if step%10 == 9 {
						m.check()
					}
				}
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
}

var modelRefs = []wire.DeploymentRef{{Namespace: "shop", Name: "web"}, {Namespace: "shop", Name: "api"}, {Namespace: "plant", Name: "web"}}

// step does something at random, and leaves the device a moment to take notice.
func (m *model) step() {
	m.t.Helper()
	steps := []struct {
		name   string
		weight int
		do     func()
	}{
		{"put", 6, m.put},
		{"delete", 3, func() { delete(m.server, m.ref()); m.issue() }},
		{"restart of the agent", 3, m.restart},
		{"power cut", 2, m.reboot},
		{"partition", 3, func() { m.online = false; m.gateway.setOffline(true) }},
		{"healing", 4, func() { m.online = true; m.gateway.setOffline(false) }},
		{"new term", 1, func() { m.manifest.Term, m.manifest.Seq = m.manifest.Term+1, 0; m.issue() }},
		{"backup", 1, func() { m.backup = m.server.clone() }},
		{"restore", 1, m.restore},
		{"confirmation", 1, m.confirm},
		{"put while podman is away", 2, m.putWithoutPodman},
		{"end of a container", 3, m.end},
		{"clock", 2, func() { m.podman.SetClock(time.Duration(m.random.IntN(200)-100) * time.Hour) }},
		{"a while", 2, func() { m.pass(time.Duration(m.random.IntN(1200)) * time.Second) }},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	n := m.random.IntN(total)
	for _, s := range steps {
		if n -= s.weight; n < 0 {
			m.story = append(m.story, s.name)
			s.do()
			break
		}
	}
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

func serviceOf(name string, version int) score.Service {
	return score.Service{
		Name: name, Image: image, Command: []string{fmt.Sprint("version ", version)}, Volumes: []score.Volume{{Name: name, MountPath: "/data"}},
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
	m.podman.Cut()
	m.boot, m.on = m.boot+"+", time.Now().Add(-time.Minute)
	m.start()
}

func (m *model) end() {
	ref := m.ref()
	m.podman.Exit(container.ObjectName(ref, []string{"front", "back"}[m.random.IntN(2)]), m.random.IntN(2))
}

// never checks what is true at each moment.
func (m *model) never() {
	m.t.Helper()
	up := map[string]int{}
	for _, c := range m.podman.Running() {
		up[container.ObjectName(c.Ref, c.Service)]++
	}
	for name, n := range up {
		if n > 1 {
			m.t.Errorf("%d containers of %s run", n, name)
		}
	}
	for _, call := range m.podman.Calls() {
		if strings.HasPrefix(call, "unvolume") {
			m.t.Errorf("data was deleted: %s", call)
		}
	}
	m.tell()
}

// containersOf are the containers that a score asks for, with their hashes.
func (m *model) containersOf(ref wire.DeploymentRef, asked *score.PodmanV0) (names []string) {
	m.t.Helper()
	data, err := json.Marshal(asked)
	m.must(err)
	w, err := interpret.PodmanV0(ref, data)
	m.must(err)
	for _, s := range w.Services {
		names = append(names, s.Name()+" "+s.Hash)
	}
	return names
}

// check lets the device come to rest, and compares it with the model.
func (m *model) check() {
	m.t.Helper()
	m.pass(15 * time.Minute)
	m.never()
	want, got := []string{}, []string{}
	for ref, services := range m.running {
		asked := score.PodmanV0{}
		for name, version := range services {
			asked.Services = append(asked.Services, serviceOf(name, version))
		}
		want = append(want, m.containersOf(ref, &asked)...)
	}
	list, err := m.podman.List(m.t.Context(), wire.DeploymentRef{})
	m.must(err)
	for _, c := range list {
		got = append(got, c.Name+" "+c.Hash)
		if c.State != container.StateRunning {
			m.t.Errorf("%s is %s", c.Name, c.State)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		m.t.Errorf("it runs %v, want %v", got, want)
	}
	if !m.online {
		m.tell()
		return
	}
	for ref := range m.running {
		if s := m.gateway.state(ref); s.Phase != wire.PhaseRunning {
			m.t.Errorf("%s is reported as %s %q", ref, s.Phase, s.Error)
		}
	}
	m.tell()
}

// tell tells the story of a failure.
func (m *model) tell() {
	if m.t.Failed() {
		m.t.Fatalf("after %s", strings.Join(m.story, ", "))
	}
}
