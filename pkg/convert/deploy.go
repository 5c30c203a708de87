package convert

import (
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// deploy translates what compose says for clusters.
func (c *container) deploy(d *types.DeployConfig) {
	if d == nil {
		return
	}
	if d.Mode == "replicated" || d.Mode == "global" {
		take(&d.Mode) // each device runs the Deployment once
	}
	if r := d.Resources.Limits; r != nil {
		c.cpus(float64(take(&r.NanoCPUs)), "deploy", "resources", "limits", "cpus")
		c.memory(int64(take(&r.MemoryBytes)), "deploy", "resources", "limits", "memory")
		c.pids(take(&r.Pids), "deploy", "resources", "limits", "pids")
	}
	if r := d.Resources.Reservations; r != nil {
		c.reservation(int64(take(&r.MemoryBytes)), "deploy", "resources", "reservations", "memory")
		r.Devices = slices.DeleteFunc(r.Devices, c.gpu)
	}
	if r := d.RestartPolicy; r != nil {
		switch r.Condition { // as docker compose reads it, which has the words of restart, too
		case "on-failure":
			c.out.Restart = score.RestartOnFailure
		case "none", types.RestartPolicyNo:
			c.out.Restart = score.RestartNever
		default:
			c.out.Restart = score.RestartAlways
		}
		switch r.Condition {
		case "", "any", "on-failure", "none", types.RestartPolicyNo, types.RestartPolicyAlways, types.RestartPolicyUnlessStopped:
			take(&r.Condition)
		default:
			c.lost("the condition is unknown, so it is Always", "use any, on-failure or none", "deploy", "restart_policy", "condition")
			take(&r.Condition)
		}
	}
}

// restart translates the policy of restarts: compose has none by default.
func (c *container) restart(policy string) {
	name, tries, _ := strings.Cut(policy, ":")
	switch {
	case name == "" && c.out.Restart != "":
	case name == "":
		c.out.Restart = score.RestartNever
		c.lost("docker starts it once, so it stays as it is when it ends, also at a power cut", "give restart: unless-stopped to what is no job", "restart")
	case name == types.RestartPolicyNo:
		c.out.Restart = score.RestartNever
	case name == types.RestartPolicyOnFailure:
		c.out.Restart = score.RestartOnFailure
	case name == types.RestartPolicyAlways || name == types.RestartPolicyUnlessStopped:
		c.out.Restart = score.RestartAlways
	default:
		c.out.Restart = score.RestartAlways
		c.lost("the policy is unknown, so it is Always", "use always, on-failure or no", "restart")
	}
	if tries != "" {
		c.lost("fleet tries again without end, ever less often", "leave the number out", "restart")
	}
}

// scale reports services that are to run several times.
func (c *container) scale(in *types.ServiceConfig) {
	n := in.Scale
	where := []string{"scale"}
	if in.Deploy != nil && in.Deploy.Replicas != nil {
		n, where = take(&in.Deploy.Replicas), []string{"deploy", "replicas"}
	}
	take(&in.Scale)
	if n != nil && *n != 1 {
		c.lost("a device runs each service once, and not "+strconv.Itoa(*n)+" times", "write a service for each, or remove the service", where...)
	}
}

func (c *container) containerName(name string) {
	if name != "" && name != c.out.Name {
		c.lost("the agent names containers, and others reach the service as "+c.out.Name, "use that name in place of "+name, "container_name")
	}
}

func (c *container) links(links []string) {
	for i, link := range links {
		name, alias, given := strings.Cut(link, ":")
		if c.groups[name] == nil {
			c.lost("there is no such service", "correct it", "links", item(i))
		} else if given && alias != c.labels[name] {
			c.lost("services have no other names", "use "+c.labels[name]+" in place of "+alias, "links", item(i))
		}
	}
}

// hooks translates what is done when the container starts and ends.
func (c *container) hooks(in *types.ServiceConfig) {
	l := score.Lifecycle{PostStart: c.hook(in.PostStart, "post_start"), PreStop: c.hook(in.PreStop, "pre_stop")}
	if l != (score.Lifecycle{}) {
		c.out.Lifecycle = &l
	}
}

// hook takes the command of the first hook; what else it and the others have is left.
func (c *container) hook(hooks []types.ServiceHook, field string) *score.Hook {
	if len(hooks) == 0 {
		return nil
	}
	h := &score.Hook{Exec: &score.ExecProbe{Command: literals(hooks[0].Command)}}
	if c.refused(func(s *score.Service) {
		s.Lifecycle = &score.Lifecycle{PostStart: h}
		if field == "pre_stop" {
			s.Lifecycle = &score.Lifecycle{PreStop: h}
		}
	}) {
		return nil
	}
	take(&hooks[0].Command)
	return h
}
