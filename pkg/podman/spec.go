package podman

import (
	"github.com/containers/image/v5/manifest"
	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/specgen"
	spec "github.com/opencontainers/runtime-spec/specs-go"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// maxLog bounds the log of a container in bytes; podman rotates it then. The
// journal is no choice: system users may not read theirs.
const maxLog = 10 << 20

// secretMode lets every user in the container read a secret's file, whoever
// the image runs as.
const secretMode = 0o444

// generate translates a Spec into what podman's API takes. It uses no field
// that podman 4.3.1 lacks.
func generate(s *container.Spec, gateways []string) *specgen.SpecGenerator {
	g := specgen.NewSpecGenerator(s.Image, false)
	g.Name = s.Name()
	g.Labels = s.Labels()
	g.Entrypoint = s.Command
	g.Command = s.Args
	g.Env = s.Env
	g.HTTPProxy = new(bool) // podman's proxy may hold a password
	g.RestartPolicy = string(container.RestartNever)
	g.LogConfiguration = &specgen.LogConfig{Driver: define.KubernetesLogging, Size: maxLog}
	// The agent runs the image's own. Podman would start a timer of systemd for it, and
	// call it healthy or not by one more clock.
	g.HealthConfig = &manifest.Schema2HealthConfig{Test: []string{"NONE"}}
	grace := uint(s.Grace.Seconds())
	g.StopTimeout = &grace
	if s.StopSignal != 0 {
		g.StopSignal = &s.StopSignal
	}
	addOptions(g, s)
	connect(g, s, gateways)
	for _, m := range s.Mounts {
		addMount(g, m)
	}
	g.EnvSecrets = s.SecretEnv
	for path, name := range s.SecretFiles {
		secret := specgen.Secret{Source: name, Target: path, Mode: secretMode}
		if r, given := s.SecretRights[path]; given {
			secret.Mode, secret.UID, secret.GID = r.Mode, uint32(r.UID), uint32(r.GID)
		}
		g.Secrets = append(g.Secrets, secret)
	}
	return g
}

func addMount(g *specgen.SpecGenerator, m container.Mount) {
	mode := "rw"
	if m.ReadOnly {
		mode = "ro"
	}
	if m.Volume != "" {
		options := []string{mode}
		if container.IsFileVolume(m.Volume) {
			options = append(options, "nocopy") // what the image has there is none of its files
		}
		g.Volumes = append(g.Volumes, &specgen.NamedVolume{Name: m.Volume, Dest: m.Path, Options: options})
		return
	}
	g.Mounts = append(g.Mounts, spec.Mount{
		Type: define.TypeBind, Source: m.HostPath, Destination: m.Path, Options: []string{"rbind", mode},
	})
}
