package workloadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/atomicfile"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// TypeFileV0 is the type of score that Files takes: {"content": "…"}.
const TypeFileV0 = "FileV0"

// halted ends the name of a file that must not be seen. No name of a Deployment has
// a dot.
const halted = ".halted"

// Files is a driver that keeps a file for each Deployment in a directory. Its
// fields are set before it is used.
type Files struct {
	Dir string

	watchers workload.Watchers

	mu sync.Mutex // guards what follows
	// down is why the driver cannot work.
	down error
}

// SetDown makes the driver unable to work until it is called with false.
func (f *Files) SetDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = nil
	if down {
		f.down = fmt.Errorf("directory %s %w", f.Dir, workload.ErrUnavailable)
	}
}

func (f *Files) available() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down
}

// About implements workload.Driver.
func (f *Files) About() workload.About {
	return workload.About{Name: "files", Types: []string{TypeFileV0}}
}

// file is what a score asks for.
type file struct {
	Content *string `json:"content"`
}

// Secrets implements workload.Workload.
func (file) Secrets() []string { return nil }

// WithSecrets implements workload.Workload.
func (w file) WithSecrets(workload.Contents) (workload.Workload, error) {
	return w, nil
}

// Parse implements workload.Driver.
func (f *Files) Parse(_ wire.DeploymentRef, _ string, data json.RawMessage) (workload.Workload, error) {
	var w file
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil {
		return nil, err
	}
	if w.Content == nil {
		return nil, errors.New("content: is missing")
	}
	return w, nil
}

// Path is that of the file of a Deployment.
func (f *Files) Path(ref wire.DeploymentRef) string {
	return filepath.Join(f.Dir, ref.Namespace+"_"+ref.Name)
}

// Observe implements workload.Driver.
func (f *Files) Observe(_ context.Context, ref wire.DeploymentRef) (workload.Instance, error) {
	if err := f.available(); err != nil {
		return nil, err
	}
	i := instance{Files: f, ref: ref}
	for _, path := range []string{f.Path(ref), f.Path(ref) + halted} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			i.path, i.changed = path, info.ModTime()
			i.content, err = os.ReadFile(path)
		}
		return i, err
	}
	return i, nil
}

// Ready implements workload.Driver.
func (f *Files) Ready(context.Context) (look workload.Look, err error) {
	if err := f.available(); err != nil {
		return look, err
	}
	entries, err := os.ReadDir(f.Dir)
	for _, e := range entries {
		namespace, name, _ := strings.Cut(strings.TrimSuffix(e.Name(), halted), "_")
		look.Deployments = append(look.Deployments, wire.DeploymentRef{Namespace: namespace, Name: name})
	}
	return look, err
}

// Watch implements workload.Driver. It sees what the driver itself does.
func (f *Files) Watch(ctx context.Context, ready func(), changed func(wire.DeploymentRef)) error {
	return f.watchers.Watch(ctx, ready, changed)
}

// Wipe implements workload.Driver.
func (f *Files) Wipe(context.Context) error {
	if err := f.available(); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.Dir)
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(f.Dir, e.Name())))
	}
	return err
}

// instance is the file of a Deployment; path is empty when there is none.
type instance struct {
	*Files

	ref     wire.DeploymentRef
	path    string
	content []byte
	changed time.Time
}

// Exists implements workload.Instance.
func (i instance) Exists() bool { return i.path != "" }

func (i instance) is(w file) bool { return i.Exists() && string(i.content) == *w.Content }

func (i instance) halted() bool { return strings.HasSuffix(i.path, halted) }

// Forbidden implements workload.Instance: there are no rules about files.
func (i instance) Forbidden() ([]workload.Step, error) { return nil, nil }

// Plan implements workload.Instance.
func (i instance) Plan(_ context.Context, w workload.Workload, _ bool) (workload.Plan, error) {
	wanted, ok := w.(file)
	switch {
	case !ok:
		return workload.Plan{}, fmt.Errorf("%T is no workload of files", w)
	case i.is(wanted) && i.halted():
		return workload.Plan{Steps: []workload.Step{i.step(workload.Restart, "showing", func() error { return os.Rename(i.path, i.Path(i.ref)) })}}, nil
	case i.is(wanted):
		return workload.Plan{}, nil
	}
	return workload.Plan{Steps: []workload.Step{i.step(workload.Change, "writing", func() error {
		if err := atomicfile.Write(i.Path(i.ref), []byte(*wanted.Content), 0o600); err != nil {
			return err
		}
		return remove(i.Path(i.ref) + halted)
	})}}, nil
}

// Remove implements workload.Instance. A file has no data beside it.
func (i instance) Remove(context.Context, wire.VolumeRetention) ([]workload.Step, error) {
	if !i.Exists() {
		return nil, nil
	}
	return []workload.Step{i.step(workload.Change, "removing", func() error { return remove(i.path) })}, nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (i instance) step(kind workload.Kind, verb string, do func() error) workload.Step {
	return workload.Step{Kind: kind, Name: verb + " file " + i.Path(i.ref), Do: func(context.Context) error {
		defer i.watchers.Tell(i.ref)
		return do()
	}}
}

// Halt implements workload.Instance.
func (i instance) Halt(context.Context) error {
	if !i.Exists() || i.halted() {
		return nil
	}
	return os.Rename(i.path, i.path+halted)
}

// Restart implements workload.Instance: a file has no services.
func (i instance) Restart(services []string) (steps []workload.Step, without []string) {
	return nil, services
}

// State implements workload.Instance.
func (i instance) State(w workload.Workload, _ time.Time) workload.State {
	wanted, known := w.(file)
	s := workload.State{Phase: wire.PhasePending, LastEvent: i.changed}
	if i.Exists() && !i.halted() && (!known || i.is(wanted)) {
		s.Phase = wire.PhaseRunning
	}
	return s
}
