//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/test/lab"
)

// smallDisk is the size in bytes of the disk that a device of TestFullDisk has.
const smallDisk = 256 << 20

// TestFullDisk fills the disk of a device, on which both the agent and podman keep what is
// theirs. What runs goes on, what cannot be done is said with numbers, and when there is space
// again, the device does what it was told meanwhile.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, suite := range longSuites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.Config{Name: "disk-" + suite, Suite: suite, Disk: smallDisk})
			for _, step := range []struct {
				name string
				run  func(*site)
			}{
				{"a pull is refused", (*site).pullIsRefused},
				{"nothing is free", (*site).nothingIsFree},
				{"the power goes meanwhile", (*site).powerGoesMeanwhile},
				{"there is space again", (*site).spaceAgain},
				{"images that nothing needs go", (*site).unneededGo},
				{"what a restart would lack", (*site).restartWouldLack},
			} {
				if !t.Run(step.name, func(t *testing.T) {
					whole := s.t
					s.t = t
					defer func() { s.t = whole }()
					step.run(s)
				}) {
					return
				}
			}
		})
	}
}

// fill leaves so many bytes of the disk free, of more.
func (s *site) fill(left int) {
	s.t.Helper()
	free, err := strconv.Atoi(strings.TrimSpace(s.root("df --output=avail --block-size=1 /var/lib/fleet-workload | tail -n 1")))
	s.must(err)
	s.root(fmt.Sprintf("head -c %d /dev/zero >>/var/lib/fleet-workload/filler || [ %d = 0 ]; sync", free-left, left))
}

func shopOf(image string) string {
	return fmt.Sprintf(`{name: web, image: %q, ports: [{hostPort: %d, containerPort: %d}], volumes: [{name: data, mountPath: /data}]}`, image, hostPort, lab.HelloPort)
}

// pullIsRefused: the numbers are in the Deployment's status, and the version before goes on.
func (s *site) pullIsRefused() {
	s.apply("shop", shopOf(s.gatewayHas("full/app:1")))
	s.aggregate("shop", counts{1, 1, 0, 0})
	before := s.container("default_shop_web")
	s.fill(10 << 20)
	s.apply("shop", shopOf(s.gatewayHas("full/app:2")))
	d := s.aggregate("shop", counts{1, 0, 1, 0})
	if e := d.Status.Aggregate.LastError; e == nil || !strings.Contains(e.Message, "no space: less than") || !strings.Contains(e.Message, "MiB") {
		s.t.Errorf("the last error is %+v", e)
	}
	c := s.device("the disk is nearly full", "DiskPressure", metav1.ConditionTrue)
	if !strings.Contains(c.Message, "of the file system of") {
		s.t.Errorf("the condition is %+v", c)
	}
	s.answers(hostPort)
	if now := s.container("default_shop_web"); now != before {
		s.t.Errorf("the container was %s and is %s", before, now)
	}
}

// nothingIsFree: what the server says is kept nevertheless, over a restart of the agent.
func (s *site) nothingIsFree() {
	before := s.container("default_shop_web")
	s.fill(0)
	s.apply("note", fmt.Sprintf("{name: app, image: %q, volumes: [{name: data, mountPath: /data}]}", lab.HelloImage))
	s.eventually("the device knows of it", func() error {
		out := s.root("fleet-agent status --output=json || true")
		if !strings.Contains(out, "note") {
			return errors.New(out)
		}
		return nil
	})
	s.root("systemctl restart fleet-agent")
	s.connected()
	s.answers(hostPort)
	if now := s.container("default_shop_web"); now != before {
		s.t.Errorf("the container was %s and is %s", before, now)
	}
}

// powerGoesMeanwhile: without its server and without space, what ran comes back.
func (s *site) powerGoesMeanwhile() {
	ctx := s.t.Context()
	s.must(s.machine.PowerCut(ctx))
	s.must(s.machine.Link.Cut(ctx))
	s.must(s.machine.Start(ctx))
	s.eventually("the service runs", func() error {
		_, err := s.machine.OutputAs(ctx, lab.WorkloadUser, "podman", "exec", "default_shop_web", "true")
		return err
	})
	s.must(s.machine.Link.Restore(ctx))
}

// spaceAgain: nobody does anything but remove what filled the disk.
func (s *site) spaceAgain() {
	s.root("rm /var/lib/fleet-workload/filler")
	s.aggregate("shop", counts{1, 1, 0, 0})
	s.aggregate("note", counts{1, 1, 0, 0})
	s.device("the disk is fine", "DiskPressure", metav1.ConditionFalse)
	if body, err := s.page(hostPort); err != nil || !strings.Contains(body, "full/app:2") {
		s.t.Errorf("the page is %q, %v", body, err)
	}
	s.containers("default_note_app", "default_shop_web")
}

// unneededGo: where a pull lacks space, images go that neither the manifest nor the one before
// needs, and no others.
func (s *site) unneededGo() {
	images := func() string { return s.podman("images", "--format", "{{.Repository}}:{{.Tag}}") }
	s.apply("shop", shopOf(s.gatewayHas("full/app:3")))
	s.aggregate("shop", counts{1, 1, 0, 0})
	if !strings.Contains(images(), "full/app:1") {
		s.t.Errorf("before the disk is full there are only %s", images())
	}
	s.fill(10 << 20)
	s.apply("shop", shopOf(s.gatewayHas("full/app:4")))
	s.eventually("the first image goes", func() error {
		if now := images(); strings.Contains(now, "full/app:1") {
			return errors.New(now)
		}
		return nil
	})
	for _, kept := range []string{"full/app:3", lab.HelloImage} {
		if now := images(); !strings.Contains(now, kept) {
			s.t.Errorf("of the images, %s are left", now)
		}
	}
	s.root("rm /var/lib/fleet-workload/filler")
	s.aggregate("shop", counts{1, 1, 0, 0})
}

// restartWouldLack: the condition names what is missing, and is True again when it is there.
func (s *site) restartWouldLack() {
	s.device("all is there", "WouldSurviveReboot", metav1.ConditionTrue)
	for _, c := range []struct{ take, give, named string }{
		{"systemctl disable --quiet fleet-agent", "systemctl enable --quiet fleet-agent", "fleet-agent.service"},
		{"loginctl disable-linger fleet-workload", "loginctl enable-linger fleet-workload", "linger"}, // which ends podman
	} {
		s.root(c.take)
		if got := s.device(c.take, "WouldSurviveReboot", metav1.ConditionFalse); !strings.Contains(got.Message, c.named) {
			s.t.Errorf("after %s the condition says %s", c.take, got.Message)
		}
		s.root(c.give)
		s.device(c.give, "WouldSurviveReboot", metav1.ConditionTrue)
	}
}
