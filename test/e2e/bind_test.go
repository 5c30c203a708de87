//go:build linux

package e2e_test

import (
	"fmt"
	"regexp"
	"strings"

	"fleet.nationtech.io/fleet/test/lab"
)

// hiddenDirectories: the agent's unit hides them, and podman mounts them. One that an
// installer's umask closed is named, and so is what the agent cannot see without the helper;
// what runs goes on.
func (s *site) hiddenDirectories() {
	s.sh(`install -d -m 0755 /home/operator; install -d -o ` + lab.WorkloadUser + ` /home/operator/app; install -d -m 0777 /tmp/shared
		mknod -m 0660 /dev/ttyUSB0 c 1 3; chown ` + lab.WorkloadUser + ` /dev/ttyUSB0; sed -i '/^bindRoots:/d' /etc/fleet-agent/agent.yaml
		echo 'bindRoots: [/srv, /home/operator, /tmp/shared, /dev/ttyUSB0]' >>/etc/fleet-agent/agent.yaml; systemctl restart fleet-agent`)
	s.trust("trusted")
	s.applyIn("trusted", "hidden", `{name: web, image: 'localhost/hello:1', volumes: [{hostPath: /home/operator/app, mountPath: /app},
		{hostPath: /tmp/shared, mountPath: /shared}, {hostPath: /dev/ttyUSB0, mountPath: /dev/ttyUSB0}]}`)
	s.aggregateIn("trusted", "hidden", counts{1, 1, 0, 0})
	s.podman("exec", "trusted_hidden_web", "sh", "-c", "echo written | tee /app/file /shared/file >/dev/ttyUSB0")
	if got := s.sh("cat /home/operator/app/file /tmp/shared/file"); got != "written\nwritten\n" {
		s.t.Errorf("the device has %q", got)
	}

	s.sh("chmod 0700 /home/operator")
	f := s.finding("bind-roots")
	if f.State != "warning" || !strings.Contains(f.Message, "/home/operator: the account of the containers may not enter /home/operator, which has mode 0700") || f.Command != "chmod o+x /home/operator" {
		s.t.Errorf("a closed root: %+v", f)
	}
	s.sh(f.Command + "; " + forWorkload + "systemctl --user stop fleet-helper.socket fleet-helper.service")
	if f := s.finding("bind-roots"); f.State != "warning" || !strings.Contains(f.Message, "the agent's unit hides /home, and the helper does not answer") {
		s.t.Errorf("without the helper: %+v", f)
	}
	s.sh("systemctl reload fleet-agent; " + forWorkload + "systemctl --user start fleet-helper.socket")
	s.aggregateIn("trusted", "hidden", counts{1, 1, 0, 0})
	s.kubectl("delete", "namespace", "trusted")
	s.containers("default_hello_web")
}

// usersOfImages: the directory belongs to the number of the image's user, which is another
// id on the device.
func (s *site) usersOfImages() {
	s.podman("create", "--name", "base", lab.HelloImage)
	s.podman("commit", "--quiet", "--change", "USER=1000:1000", "base", "localhost/user:1")
	s.podman("rm", "base")
	s.sh("install -d -o 1000 -g 1000 /srv/of-user")
	s.trust("trusted")
	s.applyIn("trusted", "user", `{name: web, image: 'localhost/user:1', volumes: [{hostPath: /srv/of-user, mountPath: /data}]}`)
	remedy := s.failsWith("trusted", "user", regexp.MustCompile("service web: hostPath /srv/of-user: user 1000 of the image is uid .*(chown -R [0-9]+ /srv/of-user)"))
	s.sh(remedy + "; systemctl reload fleet-agent")
	s.aggregateIn("trusted", "user", counts{1, 1, 0, 0})
	s.podman("exec", "trusted_user_web", "touch", "/data/file")
	s.kubectl("delete", "namespace", "trusted")
	s.containers("default_hello_web")
}

// otherArchitecture: nobody's words are "exec format error".
func (s *site) otherArchitecture() {
	_, err := s.machine.OutputAs(s.t.Context(), lab.WorkloadUser, "sh", "-c", "cd /etc && tar -c hostname | podman import --quiet --arch s390x - localhost/other:1")
	s.must(err)
	s.apply("other", "{name: web, image: 'localhost/other:1', command: [/app]}")
	s.failsWith("default", "other", regexp.MustCompile(`service web: image "localhost/other:1" is for s390x, and this device is `))
	s.kubectl("delete", "fleetdep", "other")
	s.containers("default_hello_web")
}

// trust makes a namespace whose Deployments may mount directories.
func (s *site) trust(namespace string) {
	s.t.Helper()
	s.kubectl("create", "namespace", namespace)
	s.kubectl("label", "namespace", namespace, "fleet.nationtech.io/privilege=privileged")
}

// failsWith waits until a Deployment has failed with a message, and returns what the
// expression captures of it.
func (s *site) failsWith(namespace, name string, want *regexp.Regexp) (captured string) {
	s.t.Helper()
	s.eventually(name+" fails", func() error {
		d, err := s.get(namespace, name)
		if err != nil {
			return err
		}
		a := d.Status.Aggregate
		if a == nil || a.LastError == nil {
			return fmt.Errorf("aggregate is %+v", a)
		}
		found := want.FindStringSubmatch(a.LastError.Message)
		if found == nil {
			return fmt.Errorf("last error is %q, want %s", a.LastError.Message, want)
		}
		captured = found[len(found)-1]
		return nil
	})
	return captured
}
