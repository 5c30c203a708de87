package plan

import (
	"fmt"
	"maps"
	"path"
	"slices"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// SecretUse says how one service uses Secrets.
type SecretUse struct {
	// Env are the keys of Secrets that become environment variables, by variable.
	Env map[string]SecretKey
	// Dirs are the Secrets whose keys become files, by directory.
	Dirs map[string]string
}

// SecretKey names a key of a Secret.
type SecretKey struct{ Secret, Key string }

// Secrets returns the names of the Secrets that a workload needs, ordered.
func (w *Workload) Secrets() []string {
	names := map[string]bool{}
	for _, use := range w.SecretUses {
		for _, k := range use.Env {
			names[k.Secret] = true
		}
		for _, secret := range use.Dirs {
			names[secret] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// WithSecrets returns the workload with the contents of its Secrets, by name
// and key. digest names the contents: the hash of a service that uses some
// changes with it. It fails for a key that is not there.
func (w *Workload) WithSecrets(digest string, contents map[string]map[string][]byte) (*Workload, error) {
	out := *w
	out.Services = slices.Clone(w.Services)
	for i := range out.Services {
		s := &out.Services[i]
		use, ok := w.SecretUses[s.Service]
		if !ok {
			continue
		}
		s.Hash = wire.Sum([]byte(s.Hash + digest)).String()
		if err := addSecrets(s, use, digest, contents); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

func addSecrets(s *container.Spec, use SecretUse, digest string, contents map[string]map[string][]byte) error {
	s.Secrets, s.SecretEnv, s.SecretFiles = map[string][]byte{}, map[string]string{}, map[string]string{}
	add := func(k SecretKey) (object string) {
		object = container.ObjectName(s.Ref, wire.Sum([]byte(k.Secret + "/" + k.Key + "/" + digest)).String()[:16])
		s.Secrets[object] = contents[k.Secret][k.Key]
		return object
	}
	for variable, k := range use.Env {
		if _, ok := contents[k.Secret][k.Key]; !ok {
			return fmt.Errorf("service %s: the Secret %q has no key %q", s.Service, k.Secret, k.Key)
		}
		s.SecretEnv[variable] = add(k)
	}
	for dir, secret := range use.Dirs {
		for key := range contents[secret] {
			s.SecretFiles[path.Join(dir, key)] = add(SecretKey{secret, key})
		}
	}
	return nil
}
