package score

import (
	"slices"
	"strings"
)

// Dependency is another service of the Deployment that a service waits for before it starts.
type Dependency struct {
	// Service is the name of the other one.
	Service string `json:"service"`
	// Condition is Started (the default), Healthy or Completed.
	Condition DependencyCondition `json:"condition,omitempty"`
}

// DependencyCondition says what a dependency is waited for.
type DependencyCondition string

// Values of DependencyCondition.
const (
	// DependencyStarted: it runs, or did its job.
	DependencyStarted DependencyCondition = "Started"
	// DependencyHealthy: it is ready, by its probes or its time.
	DependencyHealthy DependencyCondition = "Healthy"
	// DependencyCompleted: it ended with exit code 0.
	DependencyCompleted DependencyCondition = "Completed"
)

// validateDependencies checks what services depend on, each by itself and all together.
func (p *PodmanV0) validateDependencies() error {
	byName := make(map[string]*Service, len(p.Services))
	for i := range p.Services {
		byName[p.Services[i].Name] = &p.Services[i]
	}
	var found mistakes
	for i := range p.Services {
		s, given := &p.Services[i], map[string]bool{}
		at := index("services", i) + ".dependsOn"
		if err := checkCount(at, len(s.DependsOn)); err != nil {
			found.add(err)
			continue
		}
		for j, d := range s.DependsOn {
			found.add(d.validate(index(at, j), byName, given[d.Service]))
			given[d.Service] = true
		}
	}
	if err := found.err(); err != nil {
		return err
	}
	return p.refuseCycle(byName)
}

func (d Dependency) validate(at string, byName map[string]*Service, twice bool) error {
	condition := checkOneOf(at+".condition", d.Condition, DependencyStarted, DependencyHealthy, DependencyCompleted)
	on, known := byName[d.Service]
	switch {
	case d.Service == "":
		return all(fieldErrorf(at+".service", "the name of a service is needed"), condition)
	case !known:
		return all(fieldErrorf(at+".service", "%.80q is no service of this Deployment", d.Service), condition)
	case twice:
		return all(fieldErrorf(at+".service", "%.80q is given twice", d.Service), condition)
	case on.Schedule != nil:
		return all(fieldErrorf(at+".service", "%.80q runs on a schedule, and nothing can wait for it", d.Service), condition)
	case d.Condition == DependencyCompleted && on.Restart != RestartOnFailure && on.Restart != RestartNever:
		return fieldErrorf(at+".condition", "%.80q is to run for ever and never completes: set its restart to OnFailure or Never", d.Service)
	}
	return condition
}

// refuseCycle names the way around the first cycle of dependencies. All names are known.
func (p *PodmanV0) refuseCycle(byName map[string]*Service) error {
	done := map[string]bool{}
	var way []string
	var visit func(name string) (cycle []string)
	visit = func(name string) []string {
		if i := slices.Index(way, name); i >= 0 {
			return append(slices.Clone(way[i:]), name)
		}
		if done[name] {
			return nil
		}
		way = append(way, name)
		for _, d := range byName[name].DependsOn {
			if cycle := visit(d.Service); cycle != nil {
				return cycle
			}
		}
		way, done[name] = way[:len(way)-1], true
		return nil
	}
	for i := range p.Services {
		if cycle := visit(p.Services[i].Name); cycle != nil {
			first := slices.IndexFunc(p.Services, func(s Service) bool { return s.Name == cycle[0] })
			return fieldErrorf(index("services", first)+".dependsOn", "a cycle: %.500s", strings.Join(cycle, " -> "))
		}
	}
	return nil
}
