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
	out.Services, out.Before = slices.Clone(w.Services), maps.Clone(w.Before)
	for i := range out.Services {
		s := &out.Services[i]
		use, ok := w.SecretUses[s.Service]
		if !ok {
			continue
		}
		s.Hash = wire.Sum([]byte(s.Hash + digest)).String()
		if before, ok := out.Before[s.Service]; ok {
			out.Before[s.Service] = wire.Sum([]byte(before + digest)).String()
		}
		if err := addSecrets(s, use, digest, contents); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

func addSecrets(s *container.Spec, use SecretUse, digest string, contents map[string]map[string][]byte) error {
	s.Secrets, s.SecretEnv, s.SecretFiles = map[string][]byte{}, map[string]string{}, map[string]string{}
	s.Env = maps.Clone(s.Env)
	add := func(k SecretKey) (object string) {
		object = container.ObjectName(s.Ref, wire.Sum([]byte(k.Secret + "/" + k.Key + "/" + digest)).String()[:16])
		s.Secrets[object] = contents[k.Secret][k.Key]
		return object
	}
	for _, variable := range slices.Sorted(maps.Keys(use.Env)) {
		k := use.Env[variable]
		content, ok := contents[k.Secret][k.Key]
		switch {
		case !ok:
			return fmt.Errorf("service %s: the Secret %q has no key %q", s.Service, k.Secret, k.Key)
		case len(content) == 0: // no runtime keeps a secret of nothing, and nothing is no secret
			if s.Env == nil {
				s.Env = map[string]string{}
			}
			s.Env[variable] = ""
			continue
		}
		s.SecretEnv[variable] = add(k)
	}
	for _, dir := range slices.Sorted(maps.Keys(use.Dirs)) {
		secret := use.Dirs[dir]
		for _, key := range slices.Sorted(maps.Keys(contents[secret])) {
			if len(contents[secret][key]) == 0 {
				return fmt.Errorf("service %s: key %q of the Secret %q is empty, and podman cannot make a file of it: give it a content, or remove the key", s.Service, key, secret)
			}
			s.SecretFiles[path.Join(dir, key)] = add(SecretKey{secret, key})
		}
	}
	return nil
}
