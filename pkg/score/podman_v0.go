package score

import "time"

// TypePodmanV0 is the score type that PodmanV0 decodes.
const TypePodmanV0 = "PodmanV0"

// Limits of PodmanV0.
const (
	maxServices   = 64
	maxListItems  = 256
	maxName       = 63
	maxEnvName    = 256
	maxPathLength = 4096
	maxImage      = 512
	maxSecretName = 253
	maxGrace      = time.Hour
	maxMinReady   = time.Hour
)

// PodmanV0 runs containers with podman, one for each service.
type PodmanV0 struct {
	// Services are the containers of the Deployment, at least one.
	Services []Service `json:"services"`
	// InitContainers run before each new set of services, one after the other, each until
	// it ends with exit code 0. To change one replaces all services that have no schedule.
	InitContainers []Service `json:"initContainers,omitempty"`
	// MinReadySeconds is how long a service has to run before it counts as ready; 5 when
	// it is nil. To change it replaces no container.
	MinReadySeconds *int `json:"minReadySeconds,omitempty"`
	// Network connects the services; nil for the defaults of Network.
	Network *Network `json:"network,omitempty"`
	// ImagePullSecrets are the logins for pulls of the Deployment's images. To change them
	// replaces no container.
	ImagePullSecrets []PullSecret `json:"imagePullSecrets,omitempty"`
}

// ParsePodmanV0 decodes and validates the data of a PodmanV0 score. Errors
// wrap ErrInvalid and name the field.
func ParsePodmanV0(data []byte) (*PodmanV0, error) {
	raw, err := parseDocument(data)
	if err != nil {
		return nil, err
	}
	p, err := decodePodmanV0(raw)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// decodePodmanV0 returns, besides an error, what could be read.
func decodePodmanV0(raw any) (*PodmanV0, error) {
	var p PodmanV0
	if err := decodeStrict(raw, &p); err != nil {
		return &p, besides(err, p.validate(), raw)
	}
	return &p, p.validate()
}

func (p *PodmanV0) validate() error {
	if len(p.Services) == 0 {
		return fieldErrorf("services", "at least one service is needed")
	}
	if len(p.Services) > maxServices {
		return fieldErrorf("services", "%d services, at most %d are allowed", len(p.Services), maxServices)
	}
	return all(
		checkWithin("minReadySeconds", p.MinReadySeconds, 0, int(maxMinReady.Seconds())),
		validateEach("imagePullSecrets", p.ImagePullSecrets, PullSecret.validate),
		p.validateServices(),
		p.validateVolumes(),
		p.validateDependencies(),
		p.validateHostPorts(),
		p.validateNetwork(),
	)
}

func (p *PodmanV0) validateServices() error {
	var found mistakes
	names := map[string]bool{}
	for i := range p.Services {
		s, at := &p.Services[i], index("services", i)
		found.add(s.validate(at))
		found.add(s.refuseTimeout(at))
		found.add(takeName(names, at+".name", s.Name))
	}
	found.add(p.validateInitContainers(names))
	return found.err()
}

// admit refuses what has no meaning, but did no harm to those who run it already.
func (p *PodmanV0) admit() error {
	var found mistakes
	for i := range p.Services {
		found.add(p.Services[i].refuseTwice(index("services", i)))
	}
	for i := range p.InitContainers {
		found.add(p.InitContainers[i].refuseTwice(index("initContainers", i)))
	}
	return found.err()
}

// validateHostPorts refuses ports that the device could not listen on at the
// same time.
func (p *PodmanV0) validateHostPorts() error {
	type owned struct {
		Port
		service string
	}
	var found mistakes
	byNumber := map[int][]owned{}
	for i, s := range p.Services {
		for j, port := range s.Ports[:min(len(s.Ports), maxListItems)] {
			if port.HostPort == 0 {
				continue // a mistake of its own
			}
			for _, other := range byNumber[port.HostPort] {
				if port.Conflicts(other.Port) {
					found.add(fieldErrorf(index(index("services", i)+".ports", j)+".hostPort", "%d is already taken by service %.80q", port.HostPort, other.service))
					break
				}
			}
			byNumber[port.HostPort] = append(byNumber[port.HostPort], owned{port, s.Name})
		}
	}
	return found.err()
}
