package convert

import (
	"reflect"
	"strconv"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// preStart translates a hook before a service into an init container of the Deployment.
func (p *project) preStart(g *group, service string, i int, hook *types.PreStartHook) {
	at := []string{"services", service, "pre_start", item(i)}
	c := &container{project: p, group: g, at: at, name: service}
	c.out.Name = label(p.labels[service] + "-init-" + strconv.Itoa(i+1))
	c.spec(&hook.ContainerSpec)
	p.leftovers(at, reflect.ValueOf(*hook), "yaml", composeAdvices)
	if len(p.in.Services[service].DependsOn) > 0 || len(g.services) > 1 {
		p.lose(at, "an init container runs before all services of the Deployment", "have it need none of them")
	}
	g.Score.InitContainers = append(g.Score.InitContainers, c.out)
}

// job translates a job into a service with a schedule.
func (p *project) job(name string) {
	in, at := p.in.Jobs[name], []string{"jobs", name}
	g := &group{dns: map[string]string{}}
	for _, other := range p.groups {
		if other.mode == "" {
			g = other
		}
	}
	if in.NetworkMode == "host" || len(g.services) == 0 {
		p.lose(at, "fleet has jobs beside services in the network of a Deployment only", "write a Deployment for it, with a schedule")
		return
	}
	c := &container{project: p, group: g, at: at, name: name}
	c.out.Name = p.labels[name]
	take(&in.Name)
	take(&in.Profiles)
	if !c.schedule(in.Triggers) {
		p.lose(at, "only jobs with a schedule run", "give it one, or write it as a service with restart: no")
		return
	}
	c.dependencies(&in.WorkloadSpec)
	c.spec(&in.ContainerSpec)
	c.workload(&in.WorkloadSpec)
	if c.out.ReadinessProbe != nil {
		c.out.ReadinessProbe = nil
		c.lost("nothing waits for a job", "leave it out", "healthcheck")
	}
	p.leftovers(at, reflect.ValueOf(in), "yaml", composeAdvices)
	g.Score.Services = append(g.Score.Services, c.out)
	g.services = append(g.services, name)
}

func (c *container) schedule(t *types.TriggerConfig) bool {
	if t == nil || len(t.Schedule) == 0 {
		return false
	}
	in := &t.Schedule[0]
	s := score.Schedule{Cron: in.Cron, TimeZone: in.Timezone, MissedRuns: score.MissedRunOnce}
	if in.MissedFires == "skip" {
		s.MissedRuns = ""
	}
	if c.refused(func(service *score.Service) { service.Schedule = &s }) {
		return false
	}
	in.Cron, in.Timezone, in.MissedFires = "", "", ""
	if in.Concurrency == "forbid" {
		take(&in.Concurrency)
	}
	c.out.Schedule = &s
	return true
}
