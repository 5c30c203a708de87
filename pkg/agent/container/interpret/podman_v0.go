package interpret

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// PodmanV0 interprets scores of type PodmanV0: a container for each service.
func PodmanV0(ref wire.DeploymentRef, data json.RawMessage) (*plan.Workload, error) {
	p, err := score.ParsePodmanV0(data)
	if err != nil {
		return nil, err
	}
	w := &plan.Workload{Ref: ref, MinReady: plan.DefaultMinReady}
	if p.MinReadySeconds != nil {
		w.MinReady = time.Duration(*p.MinReadySeconds) * time.Second
	}
	for _, s := range p.ImagePullSecrets {
		w.PullSecrets = append(w.PullSecrets, s.Name)
	}
	for s, role := range p.All() {
		spec := specOf(ref, s)
		if err := live(w, p, &spec, s, role); err != nil {
			return nil, err
		}
		w.Services = append(w.Services, spec)
		addUse(w, s)
		for _, m := range spec.Mounts {
			if m.Volume != "" && !slices.Contains(w.Volumes, m.Volume) {
				w.Volumes = append(w.Volumes, m.Volume)
			}
		}
	}
	connect(w, p)
	return w, nil
}

func specOf(ref wire.DeploymentRef, s *score.Service) container.Spec {
	spec := container.Spec{
		Ref:     ref,
		Service: s.Name,
		Hash:    s.Hash(),
		Image:   s.Image,
		Command: s.Command,
		Args:    s.Args,
		Restart: restartOf(s.Restart),
		Memory:  s.Resources.Limits.MemoryBytes(),
		Grace:   s.Grace(), StopSignal: s.Signal(),
		Options: optionsOf(ref, s),
		Pull:    pullOf(s.PullPolicy),
		Probes: container.Probes{
			Startup: probeOf(s.StartupProbe), Liveness: probeOf(s.LivenessProbe), Readiness: probeOf(s.ReadinessProbe),
		},
	}
	if len(s.Env) > 0 {
		spec.Env = make(map[string]string, len(s.Env))
	}
	for _, e := range s.Env {
		if e.ValueFrom == nil {
			spec.Env[e.Name] = e.Value
		}
	}
	for _, p := range s.Ports {
		spec.Ports = append(spec.Ports, portOf(p))
	}
	for _, v := range s.Volumes {
		if v.Name != "" || v.HostPath != "" {
			spec.Mounts = append(spec.Mounts, mountOf(ref, v))
		}
	}
	spec.Mounts = append(spec.Mounts, hostMounts(s)...)
	return spec
}

// probeOf relies on the validation of the score: there is one action, and ports fit into
// 16 bits.
func probeOf(s *score.Probe) *container.Probe {
	if s == nil {
		return nil
	}
	p := &container.Probe{
		Delay: s.Delay(), Period: s.Period(), Timeout: s.Timeout(), Successes: s.Successes(), Failures: s.Failures(),
	}
	switch {
	case s.Exec != nil:
		p.Exec = s.Exec.Command
	case s.HTTPGet != nil:
		p.HTTP = &container.HTTPProbe{Port: uint16(s.HTTPGet.Port), TLS: s.HTTPGet.Scheme == score.SchemeHTTPS, Path: cmp.Or(s.HTTPGet.Path, "/")}
		for _, h := range s.HTTPGet.HTTPHeaders {
			p.HTTP.Header = append(p.HTTP.Header, h.Name, h.Value)
		}
	case s.TCPSocket != nil:
		p.TCP = uint16(s.TCPSocket.Port)
	case s.GRPC != nil:
		p.GRPC = &container.GRPCProbe{Port: uint16(s.GRPC.Port), Service: s.GRPC.Service}
	}
	return p
}

func restartOf(p score.RestartPolicy) container.Restart {
	switch p {
	case score.RestartOnFailure:
		return container.RestartOnFailure
	case score.RestartNever:
		return container.RestartNever
	default:
		return container.RestartAlways
	}
}

// portOf relies on the validation of the score: ports fit into 16 bits.
func portOf(p score.Port) container.Port {
	port := container.Port{HostIP: p.HostIP, Host: uint16(p.HostPort), Inside: uint16(p.ContainerPort), Protocol: container.TCP}
	if p.Protocol == score.ProtocolUDP {
		port.Protocol = container.UDP
	}
	return port
}

func mountOf(ref wire.DeploymentRef, v score.Volume) container.Mount {
	m := container.Mount{HostPath: v.HostPath, Path: v.MountPath, ReadOnly: v.ReadOnly}
	if v.Name != "" {
		m.Volume = container.ObjectName(ref, v.Name)
	}
	return m
}
