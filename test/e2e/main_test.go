//go:build linux

// Package e2e_test tests the binaries as shipped on real machines: systemd as
// PID 1, rootless podman, a network that can be cut. `make test-e2e` builds
// the binaries first.
package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/test/disk"
	"fleet.nationtech.io/fleet/test/lab"
	"fleet.nationtech.io/fleet/test/process"
	"fleet.nationtech.io/fleet/test/wait"
)

const (
	// A device's agent needs a minute at most to come back after an outage of
	// this length: its back-off is still short.
	waitTimeout  = 90 * time.Second
	pollInterval = 100 * time.Millisecond

	deviceName = "edge-1"
	hostPort   = 18080
)

// site is a server and a device in a network of their own.
type site struct {
	t       *testing.T
	network *lab.Network
	server  *process.Server
	machine *lab.Machine
	web     *http.Client
}

func newSite(t *testing.T, c lab.Config) *site {
	t.Helper()
	l, err := lab.Open(t.Context(), lab.Options{Progress: t.Output()})
	if err == nil && c.Disk > 0 {
		err = disk.Supported()
	}
	if (errors.Is(err, lab.ErrUnsupported) || errors.Is(err, errors.ErrUnsupported)) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t}
	if s.network, err = lab.NewNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.must(s.network.Close()) })
	s.web = &http.Client{Transport: &http.Transport{DialContext: s.network.Server.DialContext, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	s.startServer()
	c.Name, c.Network = "e2e-"+c.Name, s.network
	s.bootDevice(l, c)
	return s
}

func (s *site) startServer() {
	s.t.Helper()
	var err error
	s.server, err = process.StartServer(s.t.Context(), process.Config{
		Binary: binary(s.t, "fleet-server"), DataDir: s.t.TempDir(),
		Host: s.network.Server.Addr.String(), Command: s.network.Server.Command,
	})
	s.must(err)
	s.t.Cleanup(func() { s.must(s.server.Stop()) })
}

func (s *site) bootDevice(l *lab.Lab, c lab.Config) {
	s.t.Helper()
	ctx := s.t.Context()
	var err error
	s.machine, err = l.Boot(ctx, c)
	s.must(err)
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.showAgentLog(ctx)
		s.must(s.machine.Destroy(ctx))
	})
	s.must(s.machine.InstallAgent(ctx, binary(s.t, "fleet-agent")))
	s.must(s.machine.LoadImage(ctx, lab.HelloImage))
	s.enroll()
}

func (s *site) enroll() {
	s.t.Helper()
	ctx := s.t.Context()
	token, err := s.server.Token(ctx, "--pre-approve", "--label", "site=a")
	s.must(err)
	s.must(s.machine.EnrollAgent(ctx, s.server.EnrollURL, token, deviceName))
	s.device("the device is ready", "Ready", metav1.ConditionTrue)
}

// showAgentLog helps to find out what went wrong.
func (s *site) showAgentLog(ctx context.Context) {
	if !s.t.Failed() {
		return
	}
	r, err := s.machine.Run(ctx, "journalctl", "--no-pager", "-n", "60", "-u", "fleet-agent")
	s.t.Logf("agent's log (%v):\n%s\nserver's log:\n%s", err, r.Stdout, s.server.Log())
	const columns = "{{.Names}} {{.State}} {{.ExitCode}} {{.StartedAt}} {{.ExitedAt}} {{.Labels}}"
	r, err = s.machine.RunAs(ctx, lab.WorkloadUser, "podman", "ps", "--all", "--format", columns)
	s.t.Logf("containers (%v):\n%s", err, r.Stdout)
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// binary is the path of a binary that `make build` made.
func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	return path
}

func (s *site) eventually(what string, check func() error) {
	s.t.Helper()
	wait.For(s.t, what, waitTimeout, pollInterval, check)
}

func (s *site) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.server.Kubectl(s.t.Context(), args...)
	s.must(err)
	return out
}

// apply applies a Deployment for the devices with the label site=a.
func (s *site) apply(name, service string) {
	s.t.Helper()
	s.applyIn("default", name, service)
}

func (s *site) applyIn(namespace, name, service string) {
	s.t.Helper()
	s.must(s.tryApply(namespace, name, service))
}

// tryApply returns why the server does not take it.
func (s *site) tryApply(namespace, name, service string) error {
	manifest := fmt.Sprintf(`{apiVersion: fleet.nationtech.io/v1alpha1, kind: Deployment,
  metadata: {name: %s, namespace: %s},
  spec: {targetSelector: {matchLabels: {site: a}}, score: {type: PodmanV0, data: {minReadySeconds: 1, services: [%s]}}}}`, name, namespace, service)
	_, err := s.server.Apply(s.t.Context(), manifest)
	return err
}

// hello is a service that serves its page on a port of the device.
func hello(port int) string {
	return fmt.Sprintf("{name: web, image: %q, ports: [{hostPort: %d, containerPort: %d}]}", lab.HelloImage, port, lab.HelloPort)
}

func (s *site) get(namespace, name string) (*v1alpha1.Deployment, error) {
	out, err := s.server.Kubectl(s.t.Context(), "get", "fleetdep", "-n", namespace, name, "-o", "json")
	if err != nil {
		return nil, err
	}
	d := &v1alpha1.Deployment{}
	return d, json.Unmarshal([]byte(out), d)
}

// counts are matched, succeeded, failed and pending.
type counts [4]int

// aggregate waits for exact numbers of the current generation.
func (s *site) aggregate(name string, want counts) *v1alpha1.Deployment {
	s.t.Helper()
	return s.aggregateIn("default", name, want)
}

func (s *site) aggregateIn(namespace, name string, want counts) *v1alpha1.Deployment {
	s.t.Helper()
	var d *v1alpha1.Deployment
	s.eventually("aggregate of "+name, func() (err error) {
		if d, err = s.get(namespace, name); err != nil {
			return err
		}
		a := d.Status.Aggregate
		if a == nil || d.Status.ObservedGeneration != d.Generation {
			return errors.New("no aggregate of this generation")
		}
		if got := (counts{a.MatchedDeviceCount, a.Succeeded, a.Failed, a.Pending}); got != want {
			return fmt.Errorf("matched, succeeded, failed, pending are %v, want %v; last error %+v", got, want, a.LastError)
		}
		return nil
	})
	return d
}

// device waits for a condition of the device.
func (s *site) device(what, typ string, want metav1.ConditionStatus) metav1.Condition {
	s.t.Helper()
	var found metav1.Condition
	s.eventually(what, func() error {
		out, err := s.server.Kubectl(s.t.Context(), "get", "fleetdev", deviceName, "-o", "json")
		if err != nil {
			return err
		}
		var d v1alpha1.Device
		if err := json.Unmarshal([]byte(out), &d); err != nil {
			return err
		}
		for _, c := range d.Status.Conditions {
			if c.Type == typ && c.Status == want {
				found = c
				return nil
			}
		}
		return fmt.Errorf("conditions are %+v", d.Status.Conditions)
	})
	return found
}

// page fetches what a container serves on a port of the device.
func (s *site) page(port int) (string, error) {
	r, err := s.web.Get(fmt.Sprintf("http://%s:%d/", s.machine.Address(), port))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	return string(body), err
}

func (s *site) answers(port int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("the container answers on port %d", port), func() error {
		body, err := s.page(port)
		if err == nil && !strings.Contains(body, "Hello") {
			err = fmt.Errorf("the page is %q", body)
		}
		return err
	})
}

// podman runs podman as the user of the workload.
func (s *site) podman(args ...string) string {
	s.t.Helper()
	out, err := s.machine.OutputAs(s.t.Context(), lab.WorkloadUser, append([]string{"podman"}, args...)...)
	s.must(err)
	return strings.TrimSpace(out)
}

// container is what identifies a running container: its name, id and pid.
func (s *site) container(name string) string {
	s.t.Helper()
	return s.podman("inspect", "--type", "container", "--format", "{{.Name}} {{.Id}} {{.State.Pid}} {{.State.StartedAt}}", name)
}

// containers waits until exactly these containers exist.
func (s *site) containers(want ...string) {
	s.t.Helper()
	s.eventually("containers", func() error {
		out, err := s.machine.OutputAs(s.t.Context(), lab.WorkloadUser, "podman", "ps", "--all", "--sort", "names", "--format", "{{.Names}}")
		if err != nil {
			return err
		}
		if got := strings.Fields(out); strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Errorf("they are %v, want %v", got, want)
		}
		return nil
	})
}

func (s *site) restart(stop func()) {
	s.t.Helper()
	stop()
	server, err := s.server.Restart(s.t.Context())
	s.must(err)
	s.server = server
}
