package driver

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Activity is what a driver is at.
type Activity struct {
	// Wanted are the services that the scores ask for which it was given, ordered.
	Wanted []Wanted
	// Pulls are the images that it fetches, the oldest first.
	Pulls []Pull
}

// Wanted is a service that a score asks for.
type Wanted struct {
	services.Name
	Image string
}

// Pull is an image that is being fetched for a Deployment.
type Pull struct {
	wire.DeploymentRef
	Image string
	Since time.Time
	// Brought is how many bytes came, of Total; zero when that is not known.
	Brought, Total int64
}

// Activity returns what the driver is at.
func (d *Driver) Activity() Activity { return Activity{Wanted: d.wanted.list(), Pulls: d.pulls.list()} }

// wanted are the services that scores ask for, by Deployment.
type wanted struct {
	mu    sync.Mutex // guards what follows
	byRef map[wire.DeploymentRef]map[string]wantedService
	// order says in which waves the services are stopped.
	order map[wire.DeploymentRef]map[string]int
}

type wantedService struct {
	image   string
	restart container.Restart
}

func newWanted() *wanted {
	return &wanted{byRef: map[wire.DeploymentRef]map[string]wantedService{}, order: map[wire.DeploymentRef]map[string]int{}}
}

func (w *wanted) note(asked *plan.Workload) {
	all := make(map[string]wantedService, len(asked.Services))
	for _, s := range asked.Services {
		all[s.Service] = wantedService{s.Image, s.Restart}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byRef[asked.Ref], w.order[asked.Ref] = all, asked.Waves()
}

// waves are those of the services of a Deployment, see plan.Workload; none of one that is not
// known.
func (w *wanted) waves(ref wire.DeploymentRef) map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.order[ref]
}

func (w *wanted) forget(ref wire.DeploymentRef) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byRef, ref)
	delete(w.order, ref)
}

// goesOn reports whether the service of a container is known never to be done: one whose
// job is done did not crash.
func (w *wanted) goesOn(c *container.Container) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byRef[c.Ref][c.Service].restart == container.RestartAlways
}

func (w *wanted) list() (all []Wanted) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ref, of := range w.byRef {
		for service, s := range of {
			all = append(all, Wanted{services.Name{DeploymentRef: ref, Service: service}, s.image})
		}
	}
	slices.SortFunc(all, func(a, b Wanted) int { return a.Name.Compare(b.Name) })
	return all
}

// images are those of all services.
func (w *wanted) images() (names []string) {
	for _, s := range w.list() {
		names = append(names, s.Image)
	}
	return names
}

// pulls are the images that are being fetched.
type pulls struct {
	mu  sync.Mutex // guards all
	all []*pull
}

// pull is one of them; progress is nil while nobody tells it.
type pull struct {
	Pull

	progress func() (brought, total int64)
}

// begin notes a pull until its end.
func (p *pulls) begin(ref wire.DeploymentRef, image string) *pull {
	one := &pull{Pull: Pull{DeploymentRef: ref, Image: image, Since: time.Now().UTC()}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, one)
	return one
}

func (p *pulls) end(one *pull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.all, one); i >= 0 {
		p.all = slices.Delete(p.all, i, i+1)
	}
}

// follow notes who tells how far a pull is.
func (p *pulls) follow(one *pull, progress func() (brought, total int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one.progress = progress
}

// progress tells how far the pull of an image for some services is.
func (d *Driver) progress(w *plan.Workload, image string) func() workload.Progress {
	what := "pulling " + strings.Join(servicesOf(w, image), ", ")
	return func() workload.Progress {
		brought, total := d.pulls.of(w.Ref, image)
		return workload.Progress{What: what, Brought: brought, Total: total}
	}
}

// of says how many bytes of an image came for a Deployment, of how many; zero when that is
// not known.
func (p *pulls) of(ref wire.DeploymentRef, image string) (brought, total int64) {
	for _, one := range p.present() {
		if one.DeploymentRef == ref && one.Image == image && one.progress != nil {
			return one.progress()
		}
	}
	return 0, 0
}

func (p *pulls) list() (all []Pull) {
	for _, one := range p.present() {
		if one.progress != nil {
			one.Brought, one.Total = one.progress()
		}
		all = append(all, one.Pull)
	}
	slices.SortStableFunc(all, func(a, b Pull) int { return cmp.Or(a.Since.Compare(b.Since), a.Compare(b.DeploymentRef)) })
	return all
}

// present copies what there is. Who tells how far a pull is may hang, and then no other pull
// may wait for it to begin or to end.
func (p *pulls) present() (all []pull) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.all {
		all = append(all, *one)
	}
	return all
}
