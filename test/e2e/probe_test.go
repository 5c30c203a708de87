//go:build linux

package e2e_test

import (
	"fmt"
	"strings"
)

// probes: a service counts when its probes say so, keeps its readiness over a restart of
// the agent, and is restarted when it is not well. No port of it is published, so that the
// helper has to go into the container.
func (s *site) probes() {
	const name = "default_probed_web"
	s.apply("probed", `{name: web, image: 'localhost/hello:1',
  command: [sh, -c, "rm -f /tmp/sick; trap 'exit 0' TERM INT; sleep 3; httpd -f -p 8080 -h /www & wait"],
  startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60},
  readinessProbe: {httpGet: {port: 8080, path: /index.html}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5},
  livenessProbe: {exec: {command: [test, '!', -e, /tmp/sick]}, periodSeconds: 2, failureThreshold: 2, timeoutSeconds: 10}}`)
	s.aggregate("probed", counts{1, 1, 0, 0})
	runs := func() string {
		return strings.TrimSpace(s.podman("inspect", "--type", "container", "--format", "{{.Id}} {{.State.StartedAt}}", name))
	}
	first := runs()
	s.podman("exec", name, "mv", "/www/index.html", "/www/away.html")
	s.aggregate("probed", counts{1, 0, 0, 1})
	s.podman("exec", name, "mv", "/www/away.html", "/www/index.html")
	s.aggregate("probed", counts{1, 1, 0, 0})

	_, err := s.machine.Output(s.t.Context(), "systemctl", "restart", "fleet-agent.service")
	s.must(err)
	status, err := s.machine.Output(s.t.Context(), "sh", "-c", `until fleet-agent status | grep -q '^default *probed'; do :; done; fleet-agent status`)
	s.must(err)
	for line := range strings.Lines(status) {
		if strings.HasPrefix(line, "default") && strings.Contains(line, "probed") && strings.Contains(line, "Pending") {
			s.t.Errorf("a restart of the agent made it unready: %s", line)
		}
	}
	if now := runs(); now != first {
		s.t.Errorf("the container runs anew: %s, before %s", now, first)
	}

	s.podman("exec", name, "touch", "/tmp/sick")
	s.eventually("it was restarted", func() error {
		d, err := s.get("default", "probed")
		if err != nil {
			return err
		}
		if a := d.Status.Aggregate; a == nil || a.LastError == nil || !strings.Contains(a.LastError.Message, "service web: was stopped: its liveness probe failed: command test exited with code 1, 1 restart") {
			return fmt.Errorf("aggregate is %+v", a)
		}
		return nil
	})
	s.aggregate("probed", counts{1, 1, 0, 0})
	if now := runs(); now == first || strings.Fields(now)[0] != strings.Fields(first)[0] {
		s.t.Errorf("the container was not restarted: %s, before %s", now, first)
	}
	if timers, err := s.machine.OutputAs(s.t.Context(), "fleet-workload", "sh", "-c", "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user list-timers --no-legend | grep -v fleet-resolver || true"); err != nil || strings.TrimSpace(timers) != "" {
		s.t.Errorf("podman has timers of its own: %s %v", timers, err)
	}
	// The oldest monitor of a command: podman would keep it for five minutes.
	monitor, err := s.machine.Output(s.t.Context(), "pgrep", "--oldest", "--uid", "fleet-workload", "--full", "--", "--exec-attach")
	s.must(err)
	s.eventually("what podman keeps of a command is gone", func() error {
		r, err := s.machine.Run(s.t.Context(), "kill", "-0", strings.TrimSpace(monitor))
		if err == nil && r.ExitCode == 0 {
			err = fmt.Errorf("its monitor %s is there", strings.TrimSpace(monitor))
		}
		return err
	})
	s.kubectl("delete", "fleetdep", "probed")
	s.containers("default_hello_web")
}
