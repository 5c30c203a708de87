//go:build linux

package e2e_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/test/lab"
)

// TestStorage damages podman's storage as a power cut or a worn card does. The device
// comes back by itself, with the data of its volumes, and says what it repaired.
func TestStorage(t *testing.T) {
	t.Parallel()
	for _, suite := range longSuites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, lab.Config{Name: "storage-" + suite, Suite: suite})
			gateway, err := url.Parse(s.server.EnrollURL)
			s.must(err)
			archive, err := s.machine.Image(t.Context(), "registry.example.com/app:1")
			s.must(err)
			_, err = s.server.Run(t.Context(), "", "image", "push", archive)
			s.must(err)
			s.applyAll(`{apiVersion: v1, kind: Secret, metadata: {name: door, namespace: default}, stringData: {password: "open sesame"}}`)
			s.apply("shop", fmt.Sprintf(`{name: web, env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: door, key: password}}}], image: '%s/app:1', ports: [{hostPort: %d, containerPort: %d}], volumes: [{name: data, mountPath: /data}]},
				{name: peer, image: '%s/app:1'}`, gateway.Host, hostPort, lab.HelloPort, gateway.Host))
			s.aggregate("shop", counts{1, 1, 0, 0})
			s.podman("exec", "default_shop_web", "sh", "-c", "echo precious >/data/kept")

			// The control: podman neither sees nor mends it.
			s.damage(`find overlay/*/diff -name busybox -exec truncate --size=0 {} +`)
			if r, err := s.machine.RunAs(t.Context(), lab.WorkloadUser, "podman", "run", "--rm", "--network=none", gateway.Host+"/app:1", "true"); err != nil || r.ExitCode == 0 {
				t.Errorf("the control: a container of the damaged image runs: %+v, %v", r, err)
			}
			s.mended("replacing an image that is damaged", "layer ")

			s.damage(`db=db.sql; [ -e $db ] || db=libpod/bolt_state.db; head -c 20000 /dev/urandom >$db; rm -f $db-wal $db-shm`)
			if r, err := s.machine.RunAs(t.Context(), lab.WorkloadUser, "podman", "ps"); err != nil || r.ExitCode == 0 {
				t.Errorf("the control: podman works with a damaged database: %+v, %v", r, err)
			}
			s.mended("the storage of images was repaired", "database was set aside")

			s.damage(`echo '[{' >overlay-layers/layers.json`)
			s.mended("the storage of images was repaired", "images and containers were set aside")

			for _, file := range []string{"secrets.json", "filedriver/secretsdata.json"} {
				s.damage("truncate --size=0 secrets/" + file)
				if r, err := s.machine.RunAs(t.Context(), lab.WorkloadUser, "sh", "-c", "echo x | podman secret create control -"); err != nil || r.ExitCode == 0 {
					t.Errorf("the control: podman makes a secret although %s is damaged: %+v, %v", file, r, err)
				}
				s.mended("the storage of images was repaired", "secrets that were damaged were removed")
				if got := s.podman("exec", "default_shop_web", "sh", "-c", "echo $PASSWORD"); got != "open sesame" {
					t.Errorf("the service has the password %q", got)
				}
			}

			s.damage("truncate --size=0 networks/default_shop.json")
			if r, err := s.machine.RunAs(t.Context(), lab.WorkloadUser, "podman", "network", "exists", "default_shop"); err != nil || r.ExitCode == 0 {
				t.Errorf("the control: podman knows a network whose file is damaged: %+v, %v", r, err)
			}
			s.mended()
			s.eventually("services reach each other by name", func() error {
				out, err := s.machine.OutputAs(t.Context(), lab.WorkloadUser, "podman", "exec", "default_shop_web", "timeout", "5", "wget", "-qO-", fmt.Sprintf("http://peer:%d/", lab.HelloPort))
				if err == nil && !strings.Contains(out, "Hello") {
					err = fmt.Errorf("the page of peer is %q", out)
				}
				return err
			})
		})
	}
}

// damage changes the storage of a device that lost its power.
func (s *site) damage(how string) {
	s.t.Helper()
	ctx := s.t.Context()
	s.must(s.machine.PowerCut(ctx))
	s.must(s.machine.Link.Cut(ctx))
	s.must(s.machine.Start(ctx))
	_, err := s.machine.Output(ctx, "sh", "-c", "systemctl stop fleet-agent && systemctl stop user@$(id -u fleet-workload) && date +%s >/var/lib/damaged")
	s.must(err)
	_, err = s.machine.Output(ctx, "setpriv", "--reuid="+lab.WorkloadUser, "--regid="+lab.WorkloadUser, "--clear-groups",
		"sh", "-euc", "cd /var/lib/fleet-workload/.local/share/containers/storage && "+how)
	s.must(err)
	_, err = s.machine.Output(ctx, "sh", "-c", "systemctl start user@$(id -u fleet-workload)")
	s.must(err)
	s.must(s.machine.Link.Restore(ctx))
}

// mended lets the agent find the damage, and waits until all is as it was.
func (s *site) mended(words ...string) {
	s.t.Helper()
	ctx := s.t.Context()
	_, err := s.machine.Output(ctx, "systemctl", "start", "fleet-agent")
	s.must(err)
	var journal string
	s.eventually("the agent repaired the storage", func() error {
		if journal, err = s.machine.Output(ctx, "sh", "-c", `journalctl --no-pager --unit=fleet-agent --since=@$(cat /var/lib/damaged)`); err != nil {
			return err
		}
		for _, want := range words {
			if !strings.Contains(journal, want) {
				return fmt.Errorf("the agent does not say %q: %s", want, journal)
			}
		}
		return nil
	})
	s.device("the device is back", "PodmanReady", metav1.ConditionTrue)
	s.answers(hostPort)
	s.aggregate("shop", counts{1, 1, 0, 0})
	s.containers("default_shop_peer", "default_shop_web")
	if data := s.podman("exec", "default_shop_web", "cat", "/data/kept"); data != "precious" {
		s.t.Errorf("the volume has %q", data)
	}
	s.eventually("nothing is left of what was set aside", func() error {
		out, err := s.machine.Output(ctx, "sh", "-c", "ls /var/lib/fleet-workload/.local/share/containers/storage")
		if err == nil && strings.Contains(out, "set-aside") {
			err = fmt.Errorf("there are %s", out)
		}
		return err
	})
}
