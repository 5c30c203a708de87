package convert

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// workload translates what services and jobs have, but no hook.
func (c *container) workload(in *types.WorkloadSpec) {
	take(&in.Expose) // services of one network reach all ports of each other
	c.ports(in.Ports)
	c.health(in.HealthCheck)
}

func (c *container) ports(ports []types.ServicePortConfig) {
	for i := range ports {
		in := &ports[i]
		port := score.Port{ContainerPort: int(in.Target), HostIP: in.HostIP, Protocol: strings.ToUpper(in.Protocol)}
		if port.Protocol == score.ProtocolTCP {
			port.Protocol = ""
		}
		if in.Mode == "ingress" || in.Mode == "host" {
			take(&in.Mode)
		}
		number, err := strconv.Atoi(in.Published)
		port.HostPort = number
		switch {
		case c.group.mode == score.NetworkHost || c.group.mode == score.NetworkNone:
			c.lost("with this network_mode the container's ports are the device's own, or there are none", "leave it out", "ports", item(i))
		case in.Published == "":
			c.lost("fleet chooses no port of the device", "give one: \"8080:"+strconv.Itoa(port.ContainerPort)+"\"; services of the Deployment need none", "ports", item(i))
		case err != nil:
			c.lost("a port of the device is one number", "choose one of "+in.Published, "ports", item(i))
		case c.refused(func(s *score.Service) { s.Ports = append(slices.Clone(c.out.Ports), port) }) || c.taken(port):
			c.lost("the port, its address or its protocol is not one that fleet can publish, or it is published already", "publish TCP and UDP ports, each once", "ports", item(i))
		default:
			c.out.Ports = append(c.out.Ports, port)
			c.low(port, i)
		}
		in.Target, in.Published, in.Protocol, in.HostIP = 0, "", "", ""
	}
}

// taken reports whether another service of the Deployment publishes a port.
func (c *container) taken(port score.Port) bool {
	for _, s := range append(slices.Clone(c.group.Score.Services), c.out) {
		if slices.ContainsFunc(s.Ports, port.Conflicts) {
			return true
		}
	}
	return false
}

// health translates a check of health into a readiness probe: compose restarts nothing for it.
func (c *container) health(h *types.HealthCheckConfig) {
	if h == nil {
		return
	}
	test, disabled := take(&h.Test), take(&h.Disable)
	if disabled = disabled || len(test) > 0 && test[0] == "NONE"; disabled || len(test) == 0 {
		for _, f := range []any{&h.Interval, &h.Timeout, &h.Retries, &h.StartPeriod, &h.StartInterval} {
			reflect.ValueOf(f).Elem().SetZero()
		}
		if disabled {
			c.lost("a check that the image has counts as readiness all the same", "give a readinessProbe that replaces it, or leave this out if the image has none", "healthcheck")
		} else {
			c.lost("without a test it changes the check of the image, which counts as it is", "give the test that the image has", "healthcheck")
		}
		return
	}
	command := []string(test[1:])
	switch test[0] {
	case "CMD":
	case "CMD-SHELL":
		command = append([]string{"/bin/sh", "-c"}, command...)
	default:
		command = test
	}
	p := &score.Probe{Exec: &score.ExecProbe{Command: literals(command)}}
	take(&h.StartPeriod) // a service that is not ready yet is waited for, and not restarted
	p.PeriodSeconds = c.seconds(take(&h.Interval), 30, "interval")
	p.TimeoutSeconds = c.seconds(take(&h.Timeout), 30, "timeout")
	if n := h.Retries; n != nil && *n > 0 && *n <= 1000 {
		retries := int(*n)
		p.FailureThreshold = &retries
		take(&h.Retries)
	}
	if c.refused(func(s *score.Service) { s.ReadinessProbe = p }) {
		c.lost("it is no check that a probe can do", "give a command and times of at least 1 s", "healthcheck")
		return
	}
	c.out.ReadinessProbe = p
}

// seconds are those of a check, or docker's own.
func (c *container) seconds(d *types.Duration, otherwise int, field string) *int {
	if d == nil || *d == 0 {
		return &otherwise
	}
	n, whole := wholeSeconds(*d)
	n = max(n, 1)
	if !whole {
		c.lost("probes have whole seconds, so it is "+strconv.Itoa(n)+" s", "give whole seconds", "healthcheck", field)
	}
	return &n
}

var conditions = map[string]score.DependencyCondition{
	"": "", types.ServiceConditionStarted: "", types.ServiceConditionHealthy: score.DependencyHealthy, types.ServiceConditionCompletedSuccessfully: score.DependencyCompleted,
}

// dependencies translates what the service waits for.
func (c *container) dependencies(in *types.WorkloadSpec) {
	for _, name := range slices.Sorted(maps.Keys(in.DependsOn)) {
		d := in.DependsOn[name]
		condition, known := conditions[d.Condition]
		g := c.groups[name]
		at := []string{"depends_on", name}
		switch {
		case g == nil:
			c.lost("there is no such service, or its profile is not active", "convert with --profile, or leave it out", at...)
		case g != c.group:
			c.lost("the service is in another Deployment, for which nothing waits", "have the program try again until the other one answers", at...)
		case !known:
			c.lost("the condition is unknown", "use service_started, service_healthy or service_completed_successfully", at...)
		case condition == score.DependencyCompleted && !c.completes(g, name):
			c.lost("the other service is restarted for ever and never completes", "give it restart: on-failure or no", at...)
		default:
			c.out.DependsOn = append(c.out.DependsOn, score.Dependency{Service: c.labels[name], Condition: condition})
		}
		if d.Restart && c.written(name) {
			c.lost("a service is not restarted with another one", "have the program connect again", "depends_on", name, "restart")
		}
		if len(d.Extensions) > 0 {
			c.lost(unknown.why, unknown.instead, at...)
		}
	}
	take(&in.DependsOn)
}

// written reports whether a dependency is one that the document itself has: compose-go adds
// those of links and of networks that are shared.
func (c *container) written(name string) bool {
	s := c.in.Services[c.name]
	linked := slices.ContainsFunc(s.Links, func(link string) bool { service, _, _ := strings.Cut(link, ":"); return service == name })
	return !linked && !slices.Contains([]string{s.NetworkMode, s.Ipc, s.Pid}, types.ServicePrefix+name)
}

func (c *container) completes(g *group, name string) bool {
	i := slices.IndexFunc(g.Score.Services, func(s score.Service) bool { return s.Name == c.labels[name] })
	return i >= 0 && (g.Score.Services[i].Restart == score.RestartNever || g.Score.Services[i].Restart == score.RestartOnFailure)
}

// firstPort is the first port of the device that podman without root may take, if nothing else
// is said.
const firstPort = 1024

// portOfNames is where services ask for each other's names.
const portOfNames = 53

// low says what a low port needs.
func (c *container) low(p score.Port, at int) {
	if n := c.group.Score.Network; p.HostPort == portOfNames && p.HostIP == "" && c.group.mode == "" && (len(c.group.services) > 1 || n != nil && n.Name != "") {
		c.lost("devices refuse port 53 at all their addresses, where it would get the questions for names of services",
			"give the address that others ask: 192.0.2.1:53:"+strconv.Itoa(p.ContainerPort)+", or network_mode: host", "ports", item(at))
	}
	if p.HostPort < firstPort {
		c.lost("podman without root may not take ports below 1024", "publish a higher one, or set net.ipv4.ip_unprivileged_port_start="+strconv.Itoa(p.HostPort)+" in /etc/sysctl.d of the devices", "ports", item(at))
	}
}
