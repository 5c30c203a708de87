package score

import (
	"maps"
	"slices"
)

// objects are the names of what a score uses.
type objects struct{ secrets, configMaps map[string]bool }

// Secrets returns the names of the Secrets that the score needs, ordered.
func (p *PodmanV0) Secrets() []string { return slices.Sorted(maps.Keys(p.objects().secrets)) }

// ConfigMaps returns the names of the ConfigMaps that the score needs, ordered.
func (p *PodmanV0) ConfigMaps() []string { return slices.Sorted(maps.Keys(p.objects().configMaps)) }

func (p *PodmanV0) objects() objects {
	o := objects{map[string]bool{}, map[string]bool{}}
	for _, s := range p.ImagePullSecrets {
		o.secrets[s.Name] = true
	}
	for _, s := range p.containers() {
		o.add(s)
	}
	delete(o.secrets, "")
	delete(o.configMaps, "")
	return o
}

// add adds what a service uses; the empty name stands for none.
func (o *objects) add(s *Service) {
	for _, e := range s.Env {
		if e.ValueFrom != nil {
			o.secrets[e.ValueFrom.SecretKeyRef.Name] = true
			o.configMaps[e.ValueFrom.ConfigMapKeyRef.Name] = true
		}
	}
	for _, e := range s.EnvFrom {
		o.secrets[e.SecretRef.Name] = true
		o.configMaps[e.ConfigMapRef.Name] = true
	}
	for _, v := range s.Volumes {
		o.secrets[v.SecretName] = true
		if f, ok := v.Files(); ok {
			o.secrets[f.Secret] = true
			o.configMaps[f.ConfigMap] = true
		}
	}
}
