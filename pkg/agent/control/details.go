package control

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Details are what a device does at the moment, for people on the device.
type Details struct {
	// Services are what should run and what runs, ordered by name.
	Services []Service `json:"services,omitempty"`
	// Pulls are the images that are being fetched, the oldest first.
	Pulls []Pull `json:"pulls,omitempty"`
	// Disks are the file systems that the agent and its workloads use.
	Disks []Disk `json:"disks,omitempty"`
	// LastContact is when there last was a connection to the server; zero when there
	// was none since the agent started.
	LastContact time.Time `json:"lastContact,omitzero"`
}

// Service is what a service should be, and what it is.
type Service struct {
	services.Name
	// WantedImage is the image that the score asks for; empty when that is not known.
	WantedImage string `json:"wantedImage,omitempty"`
	// Unwanted: the score is known, and does not ask for the service any more.
	Unwanted bool `json:"unwanted,omitempty"`
	// Container is its container; nil when there is none.
	Container *wire.ContainerState `json:"container,omitempty"`
	// Why says why it does not run as it should; empty when it does, or when nothing
	// is known.
	Why string `json:"why,omitempty"`
	// Crashes is how many crashes are kept of it, and LastCrash when the last one was.
	// The command status adds them.
	Crashes   int       `json:"crashes,omitempty"`
	LastCrash time.Time `json:"lastCrash,omitzero"`
}

// Pull is an image that is being fetched.
type Pull struct {
	wire.DeploymentRef
	Image string    `json:"image"`
	Since time.Time `json:"since"`
	// Brought is how many bytes came, of Total; zero when that is not known.
	Brought int64 `json:"brought,omitempty"`
	Total   int64 `json:"total,omitempty"`
}

// Disk is a file system, in bytes.
type Disk struct {
	// Name follows "the file system of".
	Name string `json:"name"`
	Size uint64 `json:"size"`
	Used uint64 `json:"used"`
}

// Join brings together what scores ask for, and what was reported.
func Join(wanted []Service, states []wire.DeploymentState) []Service {
	all, known := map[services.Name]Service{}, map[wire.DeploymentRef]bool{}
	for _, s := range wanted {
		all[s.Name], known[s.DeploymentRef] = s, true
	}
	for _, state := range states {
		for i := range state.Containers {
			name := services.Name{DeploymentRef: state.DeploymentRef, Service: state.Containers[i].Service}
			s, asked := all[name]
			s.Name, s.Container, s.Unwanted = name, &state.Containers[i], known[state.DeploymentRef] && !asked
			all[name] = s
		}
		explain(all, state)
	}
	joined := make([]Service, 0, len(all))
	for _, s := range all {
		joined = append(joined, s)
	}
	slices.SortFunc(joined, func(a, b Service) int { return a.Name.Compare(b.Name) })
	return joined
}

// explain gives the services of a Deployment the reason for its failure: the one that the
// reason names, or those that are not there.
func explain(all map[services.Name]Service, state wire.DeploymentState) {
	if state.Phase != wire.PhaseFailed {
		return
	}
	for name, s := range all {
		if name.DeploymentRef != state.DeploymentRef {
			continue
		}
		why, itsOwn := strings.CutPrefix(state.Error, "service "+name.Service+": ")
		if itsOwn || s.Container == nil && !strings.HasPrefix(state.Error, "service ") {
			s.Why = cmp.Or(s.Why, why)
			all[name] = s
		}
	}
}
