//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/wait"
)

// How often a device loses its power and how often a process of it is killed;
// `make soak` sets more.
var (
	deviceCuts  = fromEnv("FLEET_DEVICE_CUTS", 3)
	deviceKills = fromEnv("FLEET_DEVICE_KILLS", 6)
)

// survivalDisk is the size in bytes of the disk that loses what a power cut loses.
const survivalDisk = 2 << 30

func fromEnv(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// bootTime is how long a device may take from the start of its systemd until everything
// runs; the rest of a wait is for a machine that is busy with other tests.
const bootTime = 60 * time.Second

// suites are what devices run: Debian 13 and 12, or what FLEET_DEVICE_SUITES names,
// separated by commas.
func suites() []string {
	if named := os.Getenv("FLEET_DEVICE_SUITES"); named != "" {
		return strings.Split(named, ",")
	}
	return []string{lab.Trixie, lab.Bookworm}
}

// longSuites are the suites of tests that take long: all only where a soak asks for its counts.
func longSuites() []string {
	if os.Getenv("FLEET_DEVICE_CUTS") != "" {
		return suites()
	}
	return suites()[:1]
}

// TestSurvival cuts the power of a device and kills its processes at random moments, while
// it is given new versions that it has to pull. It comes back by itself, without its
// server, never runs a service twice, and says that it succeeded when it did. Then random things
// happen to it, and it runs what was asked for last.
func TestSurvival(t *testing.T) {
	t.Parallel()
	for _, suite := range longSuites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			s := &survival{
				site:   newSite(t, lab.Config{Name: "survival-" + suite, Suite: suite, Disk: survivalDisk}),
				random: rand.New(rand.NewPCG(seed, 0)),
			}
			gateway, err := url.Parse(s.server.EnrollURL)
			s.must(err)
			s.image = gateway.Host + "/app"
			s.watch()
			s.change()
			s.converged()
			for range deviceKills {
				s.kill()
			}
			for range deviceCuts {
				s.cut()
			}
			s.links()
			s.stories()
			if s.slowest > bootTime {
				t.Errorf("after a power cut everything runs again after %s, want %s at most", s.slowest, bootTime)
			}
			t.Logf("%d kills, %d power cuts; the slowest return took %s", deviceKills, deviceCuts, s.slowest)
		})
	}
}

// survival is a device with two Deployments: shop serves its version on hostPort, from an
// image of the gateway that each change replaces; till has a volume and a probe.
type survival struct {
	*site

	random  *rand.Rand
	image   string
	version int
	// slowest is the longest return after a power cut.
	slowest time.Duration
}

// change gives the device another version of both Deployments.
func (s *survival) change() {
	s.t.Helper()
	s.version++
	archive, err := s.machine.Image(s.t.Context(), fmt.Sprintf("registry.example.com/app:%d", s.version))
	s.must(err)
	_, err = s.server.Run(s.t.Context(), "", "image", "push", archive)
	s.must(err)
	s.apply("shop", fmt.Sprintf(`{name: web, image: '%s:%d', ports: [{hostPort: %d, containerPort: %d}], command: [sh, -c, "%s"], env: [{name: SERVICE, value: shop}]}`,
		s.image, s.version, hostPort, lab.HelloPort, serve("shop")))
	s.apply("till", fmt.Sprintf(`{name: db, image: '%s', volumes: [{name: data, mountPath: /data}], env: [{name: VERSION, value: '%d'}], command: [sh, -c, "%s"],
  readinessProbe: {tcpSocket: {port: %d}, periodSeconds: 1, timeoutSeconds: 5}}`, lab.HelloImage, s.version, serve("till"), lab.HelloPort))
}

// serve is a command whose first process names its service, which makes it easy to count.
func serve(service string) string {
	return fmt.Sprintf("trap 'exit 0' TERM INT; : service-%s; httpd -f -p %d -h /www & wait", service, lab.HelloPort)
}

// converged waits until the device has succeeded with the present version, and checks that
// it says so because it did.
func (s *survival) converged() {
	s.t.Helper()
	s.aggregate("shop", counts{1, 1, 0, 0})
	s.aggregate("till", counts{1, 1, 0, 0})
	s.eventually("the present version serves", func() error {
		body, err := s.page(hostPort)
		if want := fmt.Sprintf("registry.example.com/app:%d\n", s.version); err == nil && !strings.HasSuffix(body, want) {
			err = fmt.Errorf("the page is %q, want that of %s", body, want)
		}
		return err
	})
	s.containers("default_shop_web", "default_till_db")
	s.once()
}

// watch counts, on the device, in how many containers each service has a process, and notes
// when it has one in two. Processes alone say nothing: a shell has two of a name for the
// moment in which it starts a program. The count survives everything but a power cut.
func (s *survival) watch() {
	s.t.Helper()
	_, err := s.machine.Output(s.t.Context(), "systemd-run", "--quiet", "--unit=count-services", "sh", "-c", `
while sleep 0.2; do
	for service in shop till one-front one-back two-front two-back; do
		in=$(for pid in $(pgrep --full "^sh -c trap .*: service-$service;"); do
			grep --only-matching 'libpod-[0-9a-f]*' /proc/$pid/cgroup 2>/dev/null
		done | sort --unique)
		if [ "$(echo "$in" | wc --lines)" -gt 1 ]; then echo "$(date): $service runs in" $in >>/var/lib/twice; fi
	done
done`)
	s.must(err)
}

// once checks that no service ran twice at one time.
func (s *survival) once() {
	s.t.Helper()
	out, err := s.machine.Output(s.t.Context(), "sh", "-c", "systemctl is-active --quiet count-services && cat /var/lib/twice 2>/dev/null || true")
	s.must(err)
	if out != "" {
		s.t.Errorf("a service ran twice: %s", out)
	}
}

// victims are what is killed: a command that prints process ids.
var victims = []struct{ name, pids string }{
	{"the agent", "systemctl show --property=MainPID --value fleet-agent"},
	{"podman", "pgrep --uid fleet-workload --full '^[^ ]*podman .*system service'"},
	{"the helper", "pgrep --uid fleet-workload --full 'fleet-agent helper'"},
	{"a monitor", "pgrep --uid fleet-workload conmon | shuf -n 1"},
	{"all monitors", "pgrep --uid fleet-workload conmon"},
	{"a service", "pgrep --full '^sh -c trap .*: service-' | shuf -n 1"},
	{"monitor and service", "pgrep --uid fleet-workload conmon; pgrep --full '^sh -c trap .*: service-'"},
}

// kill kills one of them at a moment of a change.
func (s *survival) kill() {
	s.t.Helper()
	v := victims[s.random.IntN(len(victims))]
	s.change()
	after := time.Duration(s.random.IntN(6000)) * time.Millisecond
	<-time.After(after)
	s.t.Logf("killing %s after %s", v.name, after)
	_, err := s.machine.Run(s.t.Context(), "sh", "-c", "kill -KILL $("+v.pids+") 2>/dev/null; true")
	s.must(err)
	s.converged()
}

// cut cuts the power at a moment of a change. The device comes back without its server.
func (s *survival) cut() {
	s.t.Helper()
	s.change()
	after := time.Duration(s.random.IntN(8000)) * time.Millisecond
	<-time.After(after)
	cable := s.random.IntN(2) == 0
	s.restart(func() {
		s.must(s.machine.PowerCut(s.t.Context()))
		s.must(s.server.Stop())
		if !cable {
			s.must(s.machine.Link.Cut(s.t.Context()))
		}
		began := time.Now()
		s.must(s.machine.Start(s.t.Context()))
		wait.For(s.t, "everything runs without the server", 3*bootTime, pollInterval, s.runs)
		took := time.Since(began)
		s.slowest = max(s.slowest, took)
		s.t.Logf("power cut after %s, back after %s, with a cable: %t", after, took, cable)
		s.watch()
		s.must(s.machine.Link.Restore(s.t.Context()))
	})
	s.device("the device is back", "Connected", metav1.ConditionTrue)
	s.converged()
}

// healTime is how long a device may take after its link has healed.
const healTime = 30 * time.Second

// links gives the device a new version while its link is bad, in all the ways in which
// links are.
func (s *survival) links() {
	s.t.Helper()
	link := s.machine.Link
	for _, bad := range []struct {
		name string
		how  func() (heal func() error)
	}{
		{"black hole", func() func() error {
			s.must(link.Cut(s.t.Context()))
			s.change()
			<-time.After(20 * time.Second)
			return func() error { return link.Restore(s.t.Context()) }
		}},
		{"flapping", func() func() error {
			s.change()
			for range 4 {
				s.must(link.Cut(s.t.Context()))
				<-time.After(5 * time.Second)
				s.must(link.Restore(s.t.Context()))
				<-time.After(5 * time.Second)
			}
			return func() error { return nil }
		}},
		{"30 % loss", func() func() error {
			heal, err := link.Lossy(s.t.Context(), 0.3)
			s.must(err)
			s.change()
			<-time.After(20 * time.Second)
			return heal
		}},
	} {
		made := s.created()
		heal := bad.how()
		s.must(heal())
		began := time.Now()
		s.converged()
		took := time.Since(began)
		s.t.Logf("%s: all is well %s after it healed", bad.name, took)
		if took > healTime {
			s.t.Errorf("%s: all is well %s after it healed, want %s at most", bad.name, took, healTime)
		}
		// Each of the two services was made once, and tried once if it has a port.
		if n := s.created() - made; n > 3 {
			s.t.Errorf("%s: podman made %d containers for one change of two services", bad.name, n)
		}
		metrics := s.kubectl("get", "--raw", "/metrics")
		if !strings.Contains(metrics, "\nfleet_devices_connected 1\n") {
			s.t.Errorf("%s: the server does not count one connection: %s", bad.name, grepLines(metrics, "fleet_devices_connected"))
		}
	}
}

// created is how many containers podman ever made.
func (s *survival) created() int {
	s.t.Helper()
	return len(strings.Fields(s.podman("events", "--stream=false", "--filter", "event=create", "--filter", "type=container", "--format", "{{.ID}}")))
}

func grepLines(text, part string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

var errNotAll = errors.New("not all of it runs")

// runs reports whether the agent and both Deployments run, of whatever version.
func (s *survival) runs() error {
	body, err := s.machine.Output(s.t.Context(), "curl", "-sS", "--max-time", "5", fmt.Sprintf("http://127.0.0.1:%d/", hostPort))
	if err != nil || !strings.Contains(body, "Hello") {
		return fmt.Errorf("the page is %q: %w", body, errors.Join(errNotAll, err))
	}
	out, err := s.machine.OutputAs(s.t.Context(), lab.WorkloadUser, "podman", "ps", "--format", "{{.Names}}")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "default_shop_web") || !strings.Contains(out, "default_till_db") {
		return fmt.Errorf("%w: %s", errNotAll, out)
	}
	_, err = s.machine.Output(s.t.Context(), "systemctl", "is-active", "fleet-agent")
	return err
}
