package interpret

import (
	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// addUse says what a service uses of Secrets and ConfigMaps, if anything.
func addUse(w *plan.Workload, s *score.Service) {
	use := useOf(s)
	if len(use.Env)+len(use.From)+len(use.Dirs)+len(use.Files) == 0 {
		return
	}
	if w.SecretUses == nil {
		w.SecretUses = map[string]plan.SecretUse{}
	}
	w.SecretUses[s.Name] = use
}

func useOf(s *score.Service) plan.SecretUse {
	use := plan.SecretUse{Env: map[string]plan.SecretKey{}, Dirs: map[string]string{}}
	for _, e := range s.Env {
		if e.ValueFrom != nil {
			use.Env[e.Name] = keyOf(e.ValueFrom)
		}
	}
	for _, e := range s.EnvFrom {
		use.From = append(use.From, plan.EnvFrom{Object: objectOf(e.SecretRef.Name, e.ConfigMapRef.Name), Prefix: e.Prefix})
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.SecretName != "" {
			use.Dirs[v.MountPath] = v.SecretName
		}
		if f, ok := v.Files(); ok {
			use.Files = append(use.Files, filesOf(v, &f))
		}
	}
	return use
}

func keyOf(from *score.EnvVarSource) plan.SecretKey {
	if c := from.ConfigMapKeyRef; c.Name != "" {
		return plan.SecretKey{Secret: wire.ConfigMapName(c.Name), Key: c.Key}
	}
	return plan.SecretKey{Secret: from.SecretKeyRef.Name, Key: from.SecretKeyRef.Key}
}

// objectOf is the name of a Secret or, when that is empty, of a ConfigMap.
func objectOf(secret, configMap string) string {
	if secret != "" {
		return secret
	}
	return wire.ConfigMapName(configMap)
}

// filesOf relies on the validation of the score: modes are of nine bits.
func filesOf(v *score.Volume, f *score.Files) plan.FileUse {
	use := plan.FileUse{
		Object: objectOf(f.Secret, f.ConfigMap), Path: v.MountPath, SubPath: v.SubPath,
		Rights: container.Permissions{Mode: uint32(f.Mode), UID: f.UID, GID: f.GID},
		Live:   v.Reload == score.ReloadNone || v.Reload == score.ReloadSignal, Signal: v.Signal(),
	}
	for _, item := range f.Items {
		i := plan.FileItem{Key: item.Key, Path: item.Path}
		if item.Mode != nil {
			mode := uint32(*item.Mode)
			i.Mode = &mode
		}
		use.Items = append(use.Items, i)
	}
	return use
}

func pullOf(p score.PullPolicy) container.PullPolicy {
	switch p {
	case score.PullAlways:
		return container.PullAlways
	case score.PullNever:
		return container.PullNever
	default:
		return container.PullIfNotPresent
	}
}
