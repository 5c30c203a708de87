//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/test/lab"
)

// talking is a service that writes a line each second.
const talking = `{name: talker, image: 'localhost/hello:1', terminationGracePeriodSeconds: 3, command: [sh, -c],
  args: ['trap "exit 0" TERM; n=0; while true; do echo line $n; echo bad $n >&2; n=$((n+1)); sleep 1 & wait; done']}`

// on runs a command of a shell as root of the device, and returns what it prints.
func (s *site) on(format string, args ...any) string {
	s.t.Helper()
	out, err := s.machine.Output(s.t.Context(), "sh", "-c", fmt.Sprintf(format, args...))
	s.must(err)
	return out
}

// person does what somebody does who sits at the device and knows no Kubernetes.
func (s *site) person() {
	s.apply("talk", talking)
	s.aggregate("talk", counts{1, 1, 0, 0})
	s.expectOutput("fleet-agent logs talker 2>/dev/null | head -n 1", "line 0\n")
	s.expectOutput("fleet-agent logs default/talk/talker 2>&1 >/dev/null | head -n 1", "bad 0\n")
	s.commands()
	s.followedRestart()
	s.crash()
	s.on("systemctl stop fleet-agent")
	s.expectOutput("fleet-agent logs talk/talker --tail 2 | wc -l", "1\n") // of each stream one
	if out := s.on("fleet-agent logs -p talker"); !strings.Contains(out, "line ") {
		s.t.Errorf("without an agent, the last crash is %s", out)
	}
	if r, err := s.machine.Run(s.t.Context(), "fleet-agent", "restart", "talker"); err != nil || r.ExitCode == 0 || !strings.Contains(r.Stderr, "not running") {
		s.t.Errorf("a restart without an agent: %+v, %v", r, err)
	}
	s.on("systemctl start fleet-agent")
	s.load()
	s.supportBundle()
	s.setServer()
	s.kubectl("delete", "fleetdep", "talk")
	s.containers("default_hello_web")
	if r, err := s.machine.Run(s.t.Context(), "fleet-agent", "logs", "-p", "talker"); err != nil || r.ExitCode == 0 || !strings.Contains(r.Stderr, "no crash is kept") {
		s.t.Errorf("crashes of what was deleted: %+v, %v", r, err)
	}
}

func (s *site) expectOutput(command, want string) {
	s.t.Helper()
	if got := s.on("%s", command); got != want {
		s.t.Errorf("%s prints %q, want %q", command, got, want)
	}
}

// load takes images from a directory of archives that root alone may read: one of podman's and
// one of OCI's. A Deployment finds them where no registry has them. What is no archive is said.
func (s *site) load() {
	const first, second = "registry.example.com/usb/first:1", "registry.example.com/usb/second:1"
	s.root("install -d -m 0700 /srv/usb && echo no archive >/srv/usb/damaged.tar && echo notes >/srv/usb/README")
	s.podman("tag", lab.HelloImage, first, second)
	s.root(forWorkload + "podman save --quiet " + first + " >/srv/usb/first.tar; " + forWorkload + "podman save --quiet --format oci-archive " + second + " >/srv/usb/second.oci")
	s.podman("untag", lab.HelloImage, first, second)
	r, err := s.machine.Run(s.t.Context(), "fleet-agent", "load", "/srv/usb")
	if err != nil || r.ExitCode != 1 || !strings.Contains(r.Stdout, "  "+first+"\n") || !strings.Contains(r.Stdout, "  "+second+"\n") || !strings.Contains(r.Stderr, "1 of 3 archives could not be loaded") {
		s.t.Errorf("load: %+v, %v", r, err)
	}
	s.apply("usb", fmt.Sprintf("{name: first, image: %q}, {name: second, image: %q}", first, second))
	s.aggregate("usb", counts{1, 1, 0, 0})
	s.kubectl("delete", "fleetdep", "usb")
	s.podman("rmi", first, second)
	s.root("rm -r /srv/usb")
}

// commands are run in a container.
func (s *site) commands() {
	r, err := s.machine.Run(s.t.Context(), "fleet-agent", "exec", "talker", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
	if err != nil || r.ExitCode != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		s.t.Errorf("exec: %+v, %v", r, err)
	}
	s.expectOutput("echo typed | fleet-agent exec -i talker -- cat", "typed\n")
	s.expectOutput("fleet-agent exec talker -- cat", "") // it has no input
	r, err = s.machine.Run(s.t.Context(), "fleet-agent", "exec", "talker", "--", "/none")
	if err != nil || r.ExitCode != 127 || !strings.Contains(r.Stderr, "/none") {
		s.t.Errorf("a command that is not there: %+v, %v", r, err)
	}
	if out := s.on("script -qec 'stty rows 33 cols 77; fleet-agent exec -it talker -- sh -c \"sleep 1; stty size\"' /dev/null </dev/null"); !strings.HasSuffix(out, "33 77\r\n") {
		s.t.Errorf("on a terminal: %q", out)
	}
}

// followedRestart: a restart that somebody asks for is no crash, and whoever follows the
// output loses nothing of it.
func (s *site) followedRestart() {
	s.on("(fleet-agent logs -f --tail 0 talker >/tmp/followed 2>/dev/null </dev/null; echo ended $? >>/tmp/followed) >/dev/null 2>&1 & echo $! >/tmp/follower")
	s.eventually("the output is followed", func() error {
		if r, err := s.machine.Run(s.t.Context(), "grep", "-c", "line", "/tmp/followed"); err != nil || r.ExitCode != 0 {
			return errors.New("nothing yet")
		}
		return nil
	})
	out := s.on("fleet-agent restart talker")
	if !strings.Contains(out, "service default/talk/talker runs again") {
		s.t.Errorf("restart prints %q", out)
	}
	s.eventually("the next run is followed", func() error {
		out := s.on("cat /tmp/followed")
		if _, next, found := strings.Cut(out, "line 0\n"); !found || !strings.Contains(next, "line 3\n") || strings.Count(next, "line 1\n") != 1 {
			return fmt.Errorf("it is %q", out)
		}
		return nil
	})
	s.on("pkill -INT -P $(cat /tmp/follower) fleet-agent")
	s.eventually("following ends", func() error {
		if out := s.on("tail -n 1 /tmp/followed"); out != "ended 0\n" {
			return fmt.Errorf("it is %q", out)
		}
		return nil
	})
	if r, err := s.machine.Run(s.t.Context(), "fleet-agent", "logs", "-p", "talker"); err != nil || !strings.Contains(r.Stderr, "no crash is kept") {
		s.t.Errorf("the restart is a crash: %+v, %v", r, err)
	}
}

// crash is one whose output is kept.
func (s *site) crash() {
	s.podman("kill", "--signal", "KILL", "default_talk_talker")
	s.eventually("the crash is kept", func() error {
		r, err := s.machine.Run(s.t.Context(), "fleet-agent", "logs", "--previous", "talker")
		if err == nil && (!strings.Contains(r.Stdout, "exited with code 137") || !strings.Contains(r.Stdout, "Connected:   yes") || !strings.Contains(r.Stdout, "line 3\n")) {
			err = fmt.Errorf("it is %+v", r)
		}
		return err
	})
	s.expectOutput("stat -c '%a %U' /var/lib/fleet-agent/crashes/*", "600 "+lab.AgentUser+"\n")
	s.eventually("status shows it", func() error {
		out := s.on("fleet-agent status")
		if !strings.Contains(out, "1, last ") || !strings.Contains(out, "the image store") {
			return fmt.Errorf("it is %s", out)
		}
		return nil
	})
}

func (s *site) supportBundle() {
	s.on("rm -f /tmp/bundle.tar.gz; fleet-agent support-bundle /tmp/bundle.tar.gz")
	s.expectOutput("stat -c '%a %U' /tmp/bundle.tar.gz", "600 root\n")
	s.expectOutput("tar -xzOf /tmp/bundle.tar.gz fleet-support/README.txt | grep -c MISSING || true", "0\n")
	all := s.on("tar -xzOf /tmp/bundle.tar.gz")
	for _, want := range []string{"fleet-agent starts", "default_talk_talker", "graphDriverName", "exited with code 137", "identity.json"} {
		if !strings.Contains(all, want) {
			s.t.Errorf("the support bundle lacks %q", want)
		}
	}
	for _, secret := range []string{"PRIVATE KEY-----", "line 3"} {
		if strings.Contains(all, secret) {
			s.t.Errorf("the support bundle has %q", secret)
		}
	}
}

func (s *site) setServer() {
	r, err := s.machine.Run(s.t.Context(), "fleet-agent", "set-server", "tls://127.0.0.1:1")
	if err != nil || r.ExitCode == 0 || !strings.Contains(r.Stderr, "nothing was changed") {
		s.t.Errorf("nobody is there: %+v, %v", r, err)
	}
	before := s.container("default_hello_web")
	enrollment := s.server.EnrollURL
	bus := s.on("grep -o 'tls://[^] ,\"]*' /etc/fleet-agent/agent.yaml | head -n 1")
	out := s.on("fleet-agent set-server %s %s", strings.TrimSpace(bus), enrollment)
	if !strings.Contains(out, "the agent was restarted") {
		s.t.Errorf("set-server prints %q", out)
	}
	s.on("test -e /etc/fleet-agent/agent.yaml.previous")
	s.eventually("the device is connected", func() error {
		if out := s.on("fleet-agent status || true"); !strings.Contains(out, "yes, to "+strings.TrimSpace(bus)) {
			return fmt.Errorf("status is %s", out)
		}
		return nil
	})
	s.device("the device is ready", "Ready", metav1.ConditionTrue)
	if after := s.container("default_hello_web"); after != before {
		s.t.Errorf("the container is %s, want it untouched: %s", after, before)
	}
}
