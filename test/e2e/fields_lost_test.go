//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// mendTime is how long a network may be lost, and a little for a busy machine.
const mendTime = 90 * time.Second

// lostNetworks ends what keeps networks, behind the back of podman: that of containers which share
// one, and podman's server of names. Containers of other networks, the control, go on.
func (s *site) lostNetworks() {
	s.t.Helper()
	control := s.started("net-default", "web", "peer") + s.started("net-private", "web")
	before := s.started("net-shared", "web", "beside")
	page := func() string {
		return strings.TrimSpace(s.root("curl -sS --max-time 5 http://127.0.0.1:18302/ 2>&1 || true"))
	}
	if got := page(); got != helloPage {
		s.t.Fatalf("before, the page is %q", got)
	}
	s.root("kill -9 $(" + forWorkload + `sh -c 'podman inspect --format "{{.State.Pid}}" $(podman pod ps -q --filter name=fields_net-shared__ | xargs podman pod inspect --format "{{.InfraContainerID}}")')`)
	since := time.Now()
	s.eventually("the control: no page without a network", func() error {
		if got := page(); got == helloPage {
			return errors.New("it is served")
		}
		return nil
	})
	s.eventually("the page is served again", func() error {
		if got := page(); got != helloPage {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	s.within(since, "a network that several services share")
	s.eventually("the other service has the same network", func() error {
		got, err := s.look("net-shared", shown{in: "beside", run: "timeout 5 wget -qO- http://127.0.0.1:8080/"})
		if err == nil && got != helloPage {
			err = fmt.Errorf("it sees %q", got)
		}
		return err
	})
	if after := s.started("net-shared", "web", "beside"); before == after {
		s.t.Error("the services are the ones of before")
	}

	asks := func() string {
		got, err := s.look("net-default", shown{run: "timeout 5 wget -qO- http://peer:8080/ 2>&1 || true"})
		s.must(err)
		return got
	}
	if got := asks(); got != helloPage {
		s.t.Fatalf("before, peer says %q", got)
	}
	said := func() bool {
		message := s.kubectl("get", "fleetdev", "-o", "jsonpath={.items[0].status.conditions[?(@.type=='PodmanReady')].message}")
		return strings.Contains(message, "server of names (aardvark-dns) had ended, and was started anew")
	}
	// A container of any network that starts just then, such as a job's, starts the server, too,
	// and then there is nothing to say.
	for try := 0; ; try++ {
		s.root("pkill -9 -u fleet-workload -x aardvark-dns || true")
		if got := asks(); got == helloPage && try == 0 {
			s.t.Log("the server of names was started by another container at once")
		}
		since = time.Now()
		s.eventually("names are known again", func() error {
			if got := asks(); got != helloPage {
				return fmt.Errorf("peer says %q", got)
			}
			return nil
		})
		s.within(since, "podman's server of names")
		told := false
		for range 10 {
			told = told || said()
		}
		if told {
			break
		}
		if try == 5 {
			s.t.Fatal("the device never said that it started the server of names")
		}
	}
	if after := s.started("net-default", "web", "peer") + s.started("net-private", "web"); control != after {
		s.t.Errorf("containers of other networks were %s, and are %s", control, after)
	}

	// A network that somebody removes, with its containers.
	s.podman("network", "rm", "--force", "-t", "0", "fields_net-bridge")
	s.eventually("a network that was removed is there again", func() error {
		got, err := s.look("net-bridge", shown{run: "timeout 5 wget -qO- http://peer:8080/"})
		if err == nil && got != helloPage {
			err = fmt.Errorf("peer says %q", got)
		}
		return err
	})
	if log := s.root("journalctl -u fleet-agent --no-pager | grep 'clearing a container that is stuck'"); !regexp.MustCompile(`fields_net-shared_`).MatchString(log) {
		s.t.Errorf("the log says %q", log)
	}
}

// earlierNetworks gives the device a network as an earlier agent made it, which is not isolated:
// it is after the agent starts, from the next start of a container in it on.
func (s *site) earlierNetworks() {
	s.t.Helper()
	const file = "/var/lib/fleet-workload/.local/share/containers/storage/networks/fields_net-other.json"
	reaches := func() string {
		return strings.TrimSpace(s.root(forWorkload + `sh -c 'address=$(podman inspect --type container --format "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}" fields_net-default_peer)
			podman exec fields_net-other_third timeout 5 wget -qO- http://$address:8080/ 2>/dev/null || echo apart'`))
	}
	if got := reaches(); got != "apart" {
		s.t.Fatalf("before, the neighbour says %q", got)
	}
	s.root("systemctl stop fleet-agent; " + forWorkload + "podman stop -t 1 fields_net-other_third && grep -q '\"isolate\": \"true\"' " + file +
		` && sed -i 's/"isolate": "true"/"mtu": "1500"/' ` + file)
	s.podman("start", "fields_net-other_third")
	s.eventually("the control: a network that is not isolated", func() error {
		if got := reaches(); got != helloPage {
			return fmt.Errorf("the neighbour says %q", got)
		}
		return nil
	})
	s.root("systemctl start fleet-agent")
	s.connected()
	s.eventually("podman's file says that it is isolated", func() error {
		if got := s.root("cat " + file); !strings.Contains(got, `"isolate":"true"`) && !strings.Contains(got, `"isolate": "true"`) || !strings.Contains(got, "1500") {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	s.eventually("the service is restarted", func() error {
		_, err := s.machine.Output(s.t.Context(), "fleet-agent", "restart", "fields/net-other/third")
		return err
	})
	if got := reaches(); got != "apart" {
		s.t.Errorf("after a start of its container the neighbour says %q", got)
	}
	if got, err := s.look("net-other", shown{in: "third", run: "wget -qO- http://127.0.0.1:8080/"}); err != nil || got != helloPage {
		s.t.Errorf("the service itself says %q, %v", got, err)
	}
}

// within complains about what took too long to mend.
func (s *site) within(since time.Time, what string) {
	s.t.Helper()
	took := time.Since(since)
	s.t.Logf("%s was mended after %s", what, took.Round(time.Second))
	if took > mendTime {
		s.t.Errorf("%s was mended after %s", what, took)
	}
}

// started says which containers services have, and since when they run.
func (s *site) started(deployment string, services ...string) (all string) {
	s.t.Helper()
	for _, service := range services {
		all += s.podman("inspect", "--type", "container", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}\n", fieldsNamespace+"_"+deployment+"_"+service)
	}
	return all
}
