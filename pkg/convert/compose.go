package convert

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"fleet.nationtech.io/fleet/pkg/score"
)

// project translates one compose project.
type project struct {
	losses
	in     *types.Project
	files  Files
	name   string
	labels map[string]string // names of services in fleet, by those in compose
	groups map[string]*group // by service
	maps   map[string]*ConfigMap
	names  map[string]bool   // of ConfigMaps
	keys   map[string]string // names of ConfigMaps, by what they are made of
	// volumes and secrets are names, by what they stand for: two things never get one name.
	volumes, secrets map[string]string
	// connected are the networks that anything is in.
	connected map[string]bool
}

// group are the services that become one Deployment.
type group struct {
	Deployment
	mode     score.NetworkMode
	services []string
	dns      map[string]string // who asked for which settings
	// mounted is where services mount named volumes, by "service volume".
	mounted map[string][]string
}

// Compose translates a project that compose-go loaded and normalized, with the paths of files
// resolved. It leaves the project as it is only on the surface: give it away.
func Compose(in *types.Project, files Files) *Result {
	p := &project{
		in: in, files: files, name: label(in.Name), connected: connected(in),
		labels: map[string]string{}, groups: map[string]*group{}, maps: map[string]*ConfigMap{}, names: map[string]bool{}, keys: map[string]string{}, volumes: map[string]string{}, secrets: map[string]string{},
	}
	p.nameServices()
	order := p.group()
	for _, name := range p.order() {
		p.service(name)
	}
	for _, name := range slices.Sorted(maps.Keys(in.Jobs)) {
		p.job(name)
	}
	p.objects()
	p.shareVolumes(order)
	r := &Result{Losses: p.list}
	for _, g := range order {
		if len(g.Score.Services) > 0 {
			r.Deployments = append(r.Deployments, p.finish(g))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.maps)) {
		r.ConfigMaps = append(r.ConfigMaps, *p.maps[name])
	}
	return r
}

// order are the names of services, those that others depend on first.
func (p *project) order() []string {
	var sorted []string
	seen := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		service, ok := p.in.Services[name]
		if seen[name] || !ok {
			return
		}
		seen[name] = true
		for _, other := range slices.Sorted(maps.Keys(service.DependsOn)) {
			visit(other)
		}
		sorted = append(sorted, name)
	}
	for _, name := range slices.Sorted(maps.Keys(p.in.Services)) {
		visit(name)
	}
	return sorted
}

// nameServices gives services names that are labels.
func (p *project) nameServices() {
	taken := map[string]bool{}
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(p.in.Services)), slices.Sorted(maps.Keys(p.in.Jobs))) {
		p.labels[name] = unique(taken, label(name))
		if p.labels[name] != name {
			at := []string{"services", name}
			if _, job := p.in.Jobs[name]; job {
				at[0] = "jobs"
			}
			p.lose(at, "a name has small letters, digits and '-' only, so the service is "+p.labels[name], "have the others ask for "+p.labels[name])
		}
	}
}

// group puts services of one network into one Deployment, as that has one mode of the network.
func (p *project) group() []*group {
	var order []*group
	byName := map[string]*group{}
	owner := p.sharing()
	for _, name := range p.order() {
		service := p.in.Services[name]
		id, mode := p.name, score.NetworkMode("")
		n := service.NetworkMode
		if owner[name] != "" {
			n = p.in.Services[owner[name]].NetworkMode
		}
		switch {
		case n == "host":
			id, mode = p.name+"-host", score.NetworkHost
		case n == "none":
			id, mode = p.name+"-none", score.NetworkNone
			if strings.HasPrefix(service.NetworkMode, types.ServicePrefix) {
				p.lose([]string{"services", name, "network_mode"}, "services without a network have a loopback each", "use network_mode service: of one that has a network")
			}
		case owner[name] != "":
			id, mode = p.name+"-"+p.labels[owner[name]], score.NetworkShared
		}
		g := byName[id]
		if g == nil {
			g = &group{mode: mode, dns: map[string]string{}, mounted: map[string][]string{}}
			g.Name = label(id)
			byName[id] = g
			order = append(order, g)
		}
		g.services = append(g.services, name)
		p.groups[name] = g
	}
	if len(order) == 1 {
		order[0].Name = p.name
	}
	return order
}

// sharing are the services that share the network of one, themselves and that one, with its name.
func (p *project) sharing() map[string]string {
	owner := map[string]string{}
	for name, service := range p.in.Services {
		root := name
		for range len(p.in.Services) {
			next, shares := strings.CutPrefix(p.in.Services[root].NetworkMode, types.ServicePrefix)
			if _, known := p.in.Services[next]; !shares || !known {
				break
			}
			root = next
		}
		if root != name && strings.HasPrefix(service.NetworkMode, types.ServicePrefix) {
			owner[name], owner[root] = root, root
		}
	}
	return owner
}

// finish says what only the whole Deployment knows.
func (p *project) finish(g *group) Deployment {
	if g.mode != "" && !(g.mode == score.NetworkShared && len(g.Score.Services) == 1) {
		g.network().Mode = g.mode
	}
	return g.Deployment
}

func (g *group) network() *score.Network {
	if g.Score.Network == nil {
		g.Score.Network = &score.Network{}
	}
	return g.Score.Network
}

// service translates one service.
func (p *project) service(name string) {
	in, at := p.in.Services[name], []string{"services", name}
	g := p.groups[name]
	c := &container{project: p, group: g, at: at, name: name}
	c.out.Name = p.labels[name]
	for _, without := range []any{&in.Name, &in.Profiles, &in.Attach, &in.Extends} {
		reflect.ValueOf(without).Elem().SetZero() // they mean nothing once the project is loaded
	}
	c.deploy(in.Deploy)
	c.restart(take(&in.Restart))
	c.scale(&in)
	c.containerName(take(&in.ContainerName))
	c.links(take(&in.Links))
	c.hooks(&in)
	c.dependencies(&in.WorkloadSpec)
	c.spec(&in.ContainerSpec)
	c.workload(&in.WorkloadSpec)
	before := take(&in.PreStart)
	p.leftovers(at, reflect.ValueOf(in), "yaml", composeAdvices)
	g.Score.Services = append(g.Score.Services, c.out)
	for i := range before {
		p.preStart(g, name, i, &before[i])
	}
}

// shareVolumes reports volumes that services of two Deployments have: each gets its own.
func (p *project) shareVolumes(order []*group) {
	owner := map[string]string{}
	for _, g := range order {
		mine := map[string]bool{}
		for _, s := range g.Score.Services {
			for _, v := range s.Volumes {
				if other, shared := owner[v.Name]; v.Name != "" && shared && other != g.Name {
					p.lose(g.mounted[s.Name+" "+v.Name],
						"a named volume belongs to one Deployment, and "+v.Name+" is also one of "+other,
						"use a directory of the device in both (hostPath), or one network for all services")
				}
				mine[v.Name] = true
			}
		}
		for name := range mine {
			owner[name] = cmp.Or(owner[name], g.Name)
		}
	}
}
