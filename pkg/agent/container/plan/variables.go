package plan

import (
	"fmt"
	"maps"
	"slices"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// variables are the keys that become environment variables, by variable.
func (f *filler) variables() (map[string]SecretKey, error) {
	all := map[string]SecretKey{}
	for _, from := range f.use.From {
		for _, key := range slices.Sorted(maps.Keys(f.contents.Objects[from.Object])) {
			name := from.Prefix + key
			if !score.CheckEnvName(name) {
				return nil, fmt.Errorf("envFrom: key %q of the %s makes %.80q, which is no name of an environment variable: rename it, or set a prefix", key, wire.DescribeObject(from.Object), name)
			}
			all[name] = SecretKey{from.Object, key}
		}
	}
	for name := range f.spec.Env {
		delete(all, name)
	}
	maps.Copy(all, f.use.Env)
	return all, nil
}

// variable adds a variable. Those of Secrets are kept by the runtime; nothing is no secret,
// and no runtime keeps it.
func (f *filler) variable(name string, k SecretKey) error {
	content, err := f.contents.Key(k.Secret, k.Key)
	if err != nil {
		return err
	}
	f.note("env "+name, content)
	if _, is := wire.ParseConfigMapName(k.Secret); is || len(content) == 0 {
		if slices.Contains(content, 0) {
			return fmt.Errorf("variable %s: key %q of the %s contains a NUL byte", name, k.Key, wire.DescribeObject(k.Secret))
		}
		f.spec.Env[name] = string(content)
		return nil
	}
	f.spec.SecretEnv[name] = f.object(k, content)
	return nil
}
