package workload

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrDrivers: an agent cannot have these drivers together.
var ErrDrivers = errors.New("drivers exclude each other")

// Drivers are those of an agent.
type Drivers []Driver

// NewDrivers returns the drivers in their order. It returns ErrDrivers when two of
// them have the same name or take the same type of score.
func NewDrivers(drivers ...Driver) (Drivers, error) {
	names, types := map[string]bool{}, map[string]string{}
	for _, d := range drivers {
		about := d.About()
		if names[about.Name] {
			return nil, fmt.Errorf("%w: two have the name %s", ErrDrivers, about.Name)
		}
		names[about.Name] = true
		for _, t := range about.Types {
			if other, taken := types[t]; taken {
				return nil, fmt.Errorf("%w: %s and %s take scores of type %s", ErrDrivers, other, about.Name, t)
			}
			types[t] = about.Name
		}
	}
	return drivers, nil
}

// Types lists the types of score that there is a driver for, in order.
func (d Drivers) Types() []string {
	var types []string
	for _, driver := range d {
		types = append(types, driver.About().Types...)
	}
	slices.Sort(types)
	return types
}

// Capabilities are those that follow from the types of score, in order. They are
// never nil: an agent without drivers says that it can run nothing.
func (d Drivers) Capabilities() []string {
	can := []string{}
	for _, t := range d.Types() {
		can = append(can, string(wire.CanRun(t)))
	}
	return can
}

// Taking returns the driver that takes scores of a type, or nil.
func (d Drivers) Taking(scoreType string) Driver {
	i := slices.IndexFunc(d, func(driver Driver) bool { return slices.Contains(driver.About().Types, scoreType) })
	if i < 0 {
		return nil
	}
	return d[i]
}

// Parse returns the driver that takes a body, and what the body asks for. Errors
// wrap score.ErrUnknownType for a type that no driver takes, wire.ErrPayload for a
// body that is no score, or are those of Driver.Parse.
func (d Drivers) Parse(ref wire.DeploymentRef, body []byte) (Driver, Workload, error) {
	s, err := wire.Decode[wire.Score](body, wire.MaxScoreSize)
	if err != nil {
		return nil, nil, err
	}
	driver := d.Taking(s.Type)
	if driver == nil {
		return nil, nil, fmt.Errorf("%w %.63q: this agent knows %s; update it or change score.type", score.ErrUnknownType, s.Type, strings.Join(d.Types(), ", "))
	}
	w, err := driver.Parse(ref, s.Type, s.Data)
	return driver, w, err
}

// Grant gives a workload of a driver what it had, see Claimant.
func Grant(d Driver, w Workload) {
	if c, ok := d.(Claimant); ok {
		c.Grant(w)
	}
}

// Release takes back what the last Plan of a Deployment reserved, see Claimant.
func Release(d Driver, ref wire.DeploymentRef) {
	if c, ok := d.(Claimant); ok {
		c.Release(ref)
	}
}

// Forget takes back everything that a Deployment has of a driver, see Claimant.
func Forget(d Driver, ref wire.DeploymentRef) {
	if c, ok := d.(Claimant); ok {
		c.Forget(ref)
	}
}

// Forget takes back everything that a Deployment has, see Claimant.
func (d Drivers) Forget(ref wire.DeploymentRef) {
	for _, driver := range d {
		Forget(driver, ref)
	}
}

// Unblocked lists the Deployments that could have what others had, see Claimant.
func (d Drivers) Unblocked() (refs []wire.DeploymentRef) {
	for _, driver := range d {
		if c, ok := driver.(Claimant); ok {
			refs = append(refs, c.Unblocked()...)
		}
	}
	return refs
}
