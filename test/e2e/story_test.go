//go:build linux

package e2e_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/draw"
	"fleet.nationtech.io/fleet/test/lab"
)

// storySteps is how many things happen to a device at random; `make soak` sets more.
var storySteps = fromEnv("FLEET_DEVICE_STEPS", 12)

// restEvery is after how many of them the device comes to rest and is compared with the model.
const restEvery = 6

// story is what becomes of two Deployments, by name, while things happen to their device: the
// version of each service.
type story struct {
	*survival

	wanted  map[string]map[string]int
	offline bool
	told    []string
}

// storyServices are the services of the Deployments of a story.
var storyServices = []string{"front", "back"}

// stories lets random things happen, and compares what runs with a model that is a few lines
// long: what was asked for last.
func (s *survival) stories() {
	s.t.Helper()
	s.kubectl("delete", "fleetdep", "--all", "--timeout=60s")
	st := &story{survival: s, wanted: map[string]map[string]int{}}
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("after %d steps: %s", len(st.told), strings.Join(st.told, ", "))
		}
	})
	for n := range storySteps {
		st.step()
		if n%restEvery == restEvery-1 {
			st.rest()
		}
	}
}

func (st *story) step() {
	step := draw.One(st.random,
		draw.May("put", 8, st.put),
		draw.May("delete", 3, st.remove),
		draw.May("kill", 5, st.killSomething),
		draw.May("restart of the agent", 2, func() { st.root("systemctl restart fleet-agent") }),
		draw.May("podman stops", 1, func() { st.root(forWorkload + "systemctl --user stop podman.service") }),
		draw.May("partition", 2, func() { st.offline = true; st.must(st.machine.Link.Cut(st.t.Context())) }),
		draw.May("healing", 2, st.heal),
		draw.May("restart of the server", 1, func() { st.restart(func() { st.must(st.server.Stop()) }) }),
		draw.May("power cut", 1, st.powerCut),
		draw.May("a while", 2, func() { <-time.After(time.Duration(st.random.IntN(5000)) * time.Millisecond) }),
	)
	st.told = append(st.told, step.Name)
	step.Do()
	<-time.After(time.Duration(st.random.IntN(1500)) * time.Millisecond)
}

func (st *story) name() string { return []string{"one", "two"}[st.random.IntN(2)] }

// put makes a Deployment, or gives it another version of a service.
func (st *story) put() {
	st.version++
	name := st.name()
	if st.wanted[name] == nil {
		st.wanted[name] = map[string]int{}
	}
	st.wanted[name][storyServices[st.random.IntN(len(storyServices))]] = st.version
	var services []string
	for _, service := range slices.Sorted(maps.Keys(st.wanted[name])) {
		services = append(services, fmt.Sprintf(`{name: %s, image: '%s', env: [{name: VERSION, value: '%d'}], volumes: [{name: %[1]s, mountPath: /data}], command: [sh, -c, "%[4]s"]}`,
			service, lab.HelloImage, st.wanted[name][service], serve(name+"-"+service)))
	}
	st.apply(name, strings.Join(services, ", "))
}

func (st *story) remove() {
	name := st.name()
	delete(st.wanted, name)
	st.kubectl("delete", "fleetdep", name, "--ignore-not-found", "--wait=false")
	if st.offline {
		st.heal() // the Deployment is gone when the device says so, and may be made anew then
	}
	st.kubectl("delete", "fleetdep", name, "--ignore-not-found", "--timeout=60s")
}

func (st *story) killSomething() {
	v := victims[st.random.IntN(len(victims))]
	st.told = append(st.told, v.name)
	_, err := st.machine.Run(st.t.Context(), "sh", "-c", "kill -KILL $("+v.pids+") 2>/dev/null; true")
	st.must(err)
}

func (st *story) heal() {
	st.offline = false
	st.must(st.machine.Link.Restore(st.t.Context()))
}

func (st *story) powerCut() {
	st.must(st.machine.PowerCut(st.t.Context()))
	st.must(st.machine.Start(st.t.Context()))
	st.watch()
}

// rest lets the device come to rest, and compares it with the model.
func (st *story) rest() {
	st.t.Helper()
	st.heal()
	st.device("the device is back", "Connected", metav1.ConditionTrue)
	want := []string{}
	for name, services := range st.wanted {
		st.aggregate(name, counts{1, 1, 0, 0})
		for service, version := range services {
			want = append(want, fmt.Sprint(container.ObjectName(wire.DeploymentRef{Namespace: "default", Name: name}, service), " VERSION=", version))
		}
	}
	slices.Sort(want)
	st.eventually("what was asked for runs", func() error {
		out, err := st.machine.OutputAs(st.t.Context(), lab.WorkloadUser, "sh", "-c",
			`for c in $(podman ps --all --format '{{.Names}}'); do podman inspect --type container --format '{{.Name}} {{.State.Status}} {{.Config.Env}}' "$c"; done`)
		if err != nil {
			return err
		}
		got := []string{}
		for line := range strings.Lines(out) {
			words := strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(line))
			version := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "VERSION=") })
			if len(words) < 2 || words[1] != "running" || version < 0 {
				return fmt.Errorf("there is %s", line)
			}
			got = append(got, words[0]+" "+words[version])
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("it runs %v, want %v", got, want)
		}
		return nil
	})
	st.once()
}
