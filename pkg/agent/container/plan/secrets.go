package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// SecretUse says how one service uses Secrets and ConfigMaps. Both are called by their names
// as in workload.Contents.
type SecretUse struct {
	// Env are the keys that become environment variables, by variable.
	Env map[string]SecretKey
	// From are the objects whose keys all become variables. Of two of one name the later
	// one counts, and Env before all of them.
	From []EnvFrom
	// Dirs are the Secrets whose keys become files beside others, by directory.
	Dirs map[string]string
	// Files are directories of files, and single files.
	Files []FileUse
}

// SecretKey names a key of a Secret or a ConfigMap.
type SecretKey struct{ Secret, Key string }

// EnvFrom makes variables of all keys of an object.
type EnvFrom struct{ Object, Prefix string }

// FileUse makes files of the keys of an object.
type FileUse struct {
	Object string
	// Path is where the container sees the directory, or the file that SubPath names.
	Path, SubPath string
	// Items are empty for all keys.
	Items []FileItem
	// Rights are those of files without a mode of their own.
	Rights container.Permissions
	// Live: a change of the content is no reason to replace the container, which gets
	// Signal after it unless that is 0.
	Live   bool
	Signal syscall.Signal
}

// FileItem makes a file of a key.
type FileItem struct {
	Key, Path string
	// Mode is nil for that of the whole directory.
	Mode *uint32
}

// Secrets returns the names of the Secrets and ConfigMaps that a workload needs, ordered.
func (w *Workload) Secrets() []string {
	names := map[string]bool{}
	for _, name := range w.PullSecrets {
		names[name] = true
	}
	for _, use := range w.SecretUses {
		for _, k := range use.Env {
			names[k.Secret] = true
		}
		for _, from := range use.From {
			names[from.Object] = true
		}
		for _, secret := range use.Dirs {
			names[secret] = true
		}
		for _, f := range use.Files {
			names[f.Object] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// WithSecrets returns the workload with the contents of its Secrets and ConfigMaps. The hash
// of a service changes with what it uses of them. It fails for a key that is not there.
func (w *Workload) WithSecrets(c workload.Contents) (_ *Workload, err error) {
	out := *w
	out.Services, out.Before, out.Earlier = slices.Clone(w.Services), maps.Clone(w.Before), map[string]container.Spec{}
	for i := range out.Services {
		use, ok := w.SecretUses[out.Services[i].Service]
		if !ok {
			continue
		}
		if use.isEarlier() {
			f := filler{spec: out.Services[i], use: use, contents: workload.Contents{Digest: c.Digest, Objects: c.Objects}}
			if err := f.fill(); err != nil {
				return nil, fmt.Errorf("service %s: %w", f.spec.Service, err)
			}
			f.spec.Hash = wire.Sum([]byte(f.spec.Hash + c.Digest)).String()
			out.Earlier[f.spec.Service] = f.spec
			if before, ok := out.Before[f.spec.Service]; ok {
				out.Before[f.spec.Service] = wire.Sum([]byte(before + c.Digest)).String()
			}
		}
		f := filler{spec: out.Services[i], use: use, contents: c}
		if err := f.fill(); err != nil {
			return nil, fmt.Errorf("service %s: %w", f.spec.Service, err)
		}
		f.seal()
		out.Services[i] = f.spec
	}
	out.Logins, err = logins(w.PullSecrets, c)
	return &out, err
}

// isEarlier reports whether agents up to 0.1 knew all of it. They gave the service another
// hash, and its secrets other names, with each digest of all Secrets of the Deployment.
func (u *SecretUse) isEarlier() bool {
	for _, k := range u.Env {
		if _, is := wire.ParseConfigMapName(k.Secret); is {
			return false
		}
	}
	return len(u.From)+len(u.Files) == 0
}

// Inherit returns the workload with the services as agents up to 0.1 made them whose
// containers are of such an agent, so that an upgrade replaces none.
func Inherit(w *Workload, observed []container.Container) *Workload {
	out := *w
	for i, s := range w.Services {
		earlier, there := w.Earlier[s.Service]
		if !there || !slices.ContainsFunc(observed, func(c container.Container) bool {
			return c.Ref == w.Ref && c.Service == s.Service && c.Hash == earlier.Hash
		}) {
			continue
		}
		if &out.Services[0] == &w.Services[0] {
			out.Services = slices.Clone(w.Services)
		}
		out.Services[i] = earlier
	}
	return &out
}

// filler puts contents into a spec.
type filler struct {
	spec     container.Spec
	use      SecretUse
	contents workload.Contents
	// used names what goes into the container for good.
	used []string
}

func (f *filler) fill() error {
	s := &f.spec
	s.Secrets, s.SecretEnv, s.SecretFiles = map[string][]byte{}, map[string]string{}, map[string]string{}
	if s.Env = maps.Clone(s.Env); s.Env == nil {
		s.Env = map[string]string{}
	}
	variables, err := f.variables()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if err := f.variable(name, variables[name]); err != nil {
			return err
		}
	}
	if err := f.dirs(); err != nil {
		return err
	}
	for i := range f.use.Files {
		if err := f.files(&f.use.Files[i]); err != nil {
			return err
		}
	}
	return nil
}

// seal gives the spec the hash of its contents, and its directories their volumes.
func (f *filler) seal() {
	s := &f.spec
	s.Hash = wire.Sum([]byte(s.Hash + "\x00" + strings.Join(f.used, "\x00"))).String()
	for i := range s.Files {
		s.Files[i].Volume = container.FileVolume(s.Ref, s.Hash, s.Files[i].Path)
	}
}

// note notes that a content is part of the container, where is how.
func (f *filler) note(where string, content []byte) {
	f.used = append(f.used, where+"="+f.contents.MarkOf(content))
}

// object makes a secret of the runtime, and returns its name.
func (f *filler) object(k SecretKey, content []byte) (name string) {
	name = container.ObjectName(f.spec.Ref, wire.Sum([]byte(k.Secret + "/" + k.Key + "/" + f.contents.MarkOf(content))).String()[:16])
	f.spec.Secrets[name] = content
	return name
}
