package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/user"
	"slices"
	"strconv"
	"time"

	"fleet.nationtech.io/fleet/pkg/interpreter"
	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Files is the interpreter of FilesV0.
type Files struct {
	// Dir keeps the ledger.
	Dir string
	// Roots are the directories below which files may be put.
	Roots []string
	Log   *slog.Logger

	cut func() error // see tree.cut
}

func (f *Files) tree() *tree { return &tree{f.Roots, f.cut} }

// save writes the ledger.
func (f *Files) save(l *ledger) error {
	if err := f.tree().changing(); err != nil {
		return err
	}
	return l.save(f.Dir)
}

// Parse implements interpreter.Interpreter.
func (f *Files) Parse(scoreType string, data json.RawMessage) (needs []string, err error) {
	if scoreType != score.TypeFilesV0 {
		return nil, fmt.Errorf("score type %.63q is none of this interpreter's", scoreType)
	}
	s, err := score.ParseFilesV0(data)
	if err != nil {
		return nil, err
	}
	needs = s.Secrets()
	for _, name := range s.ConfigMaps() {
		needs = append(needs, wire.ConfigMapName(name))
	}
	return needs, nil
}

// wanted are the files that a score asks for.
func wanted(w *interpreter.Wanted) (all []*file, err error) {
	if w.Type != score.TypeFilesV0 {
		return nil, fmt.Errorf("score type %.63q is none of this interpreter's", w.Type)
	}
	s, err := score.ParseFilesV0(w.Data)
	if err != nil {
		return nil, err
	}
	for i := range s.Files {
		one, err := place(&s.Files[i], w.Objects)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Files[i].Path, err)
		}
		all = append(all, one)
	}
	return all, nil
}

func place(p *score.PlacedFile, objects map[string]map[string][]byte) (f *file, err error) {
	f = &file{path: p.Path, mode: uint32(p.Permissions())} //nolint:gosec // at most 0777
	object, key := "", ""
	switch {
	case p.Content != nil:
		f.content = []byte(*p.Content)
	case p.ConfigMapKeyRef != nil:
		object, key = wire.ConfigMapName(p.ConfigMapKeyRef.Name), p.ConfigMapKeyRef.Key
	default:
		object, key = p.SecretKeyRef.Name, p.SecretKeyRef.Key
	}
	if object != "" {
		content, there := objects[object][key]
		if !there {
			return nil, fmt.Errorf("the %s has no key %q", wire.DescribeObject(object), key)
		}
		f.content = content
	}
	if f.uid, err = accountID(p.Owner); err == nil {
		f.gid, err = groupID(p.Group)
	}
	return f, err
}

// accountID is the number of an account, root's for none.
func accountID(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(name); err == nil {
		return n, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("owner: the device has no account %q", name)
	}
	return strconv.Atoi(u.Uid)
}

func groupID(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(name); err == nil {
		return n, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("group: the device has no group %q", name)
	}
	return strconv.Atoi(g.Gid)
}

// List implements interpreter.Interpreter.
func (f *Files) List(context.Context) (refs []wire.DeploymentRef, err error) {
	l, err := readLedger(f.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(l.Deployments)) {
		refs = append(refs, l.Deployments[name].DeploymentRef)
	}
	return refs, nil
}

// Observe implements interpreter.Interpreter.
func (f *Files) Observe(_ context.Context, ref wire.DeploymentRef) (o interpreter.Observation, err error) {
	l, err := readLedger(f.Dir)
	if err != nil {
		return o, err
	}
	e := l.Deployments[ref.String()]
	if e == nil {
		return o, nil
	}
	o = interpreter.Observation{Exists: true, Mark: e.Mark, Phase: wire.PhaseRunning, ChangedAt: e.ChangedAt}
	if e.Halted {
		o.Phase = wire.PhasePending
		return o, nil
	}
	t := f.tree()
	for _, path := range slices.Sorted(maps.Keys(e.Files)) {
		s, err := t.look(path)
		switch {
		case err != nil:
			o.Phase, o.Reason = wire.PhaseFailed, err.Error()
			return o, nil
		case s.exists && !s.is(e.Files[path]):
			o.Phase, o.Reason = wire.PhaseFailed, foreign(path, &s, true).Error()
			return o, nil
		case !s.exists || !s.has(e.Files[path]):
			o.Phase = wire.PhasePending
		}
	}
	return o, nil
}

// has reports whether mode and owner are what was given.
func (s *sight) has(p *put) bool { return s.mode == p.Mode && s.uid == p.UID && s.gid == p.GID }

// Plan implements interpreter.Interpreter.
func (f *Files) Plan(_ context.Context, w *interpreter.Wanted) (p interpreter.Plan, err error) {
	l, err := readLedger(f.Dir)
	if err != nil {
		return p, err
	}
	t, _, err := f.plan(l, w)
	if err != nil {
		return p, err
	}
	return interpreter.Plan{Steps: t.steps()}, nil
}

// plan looks at what a decision needs, and decides.
func (f *Files) plan(l *ledger, w *interpreter.Wanted) (*todo, []*file, error) {
	files, err := wanted(w)
	if err != nil {
		return nil, nil, err
	}
	had := l.Deployments[w.Deployment.String()]
	paths := map[string]bool{}
	for _, one := range files {
		paths[one.path] = true
	}
	if had != nil {
		for path := range had.Files {
			paths[path] = true
		}
	}
	seen, tree := map[string]sight{}, f.tree()
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if seen[path], err = tree.look(path); err != nil {
			return nil, nil, err
		}
	}
	t, err := decide(l, w.Deployment, had, files, w.Mark, seen)
	return t, files, err
}

// Apply implements interpreter.Interpreter. All files are on the disk before the first is
// put in its place: one that there is no space for changes nothing.
func (f *Files) Apply(_ context.Context, w *interpreter.Wanted) error {
	l, err := readLedger(f.Dir)
	if err != nil {
		return err
	}
	t, files, err := f.plan(l, w)
	if err != nil {
		return err
	}
	name := w.Deployment.String()
	had := l.Deployments[name]
	if had == nil {
		had = &entry{DeploymentRef: w.Deployment, Files: map[string]*put{}}
	}
	if had.Mark == "" { // a power cut may have left what was prepared
		for path := range had.Files {
			f.tree().discard(path)
		}
	}
	under := had.clone()
	under.Mark, under.Halted, under.ChangedAt = "", false, time.Now().UTC().Truncate(time.Millisecond)
	l.Deployments[name] = under
	if err := f.announce(l, under, t); err != nil {
		return err
	}
	if err := f.put(t, under); err != nil {
		return err
	}
	return f.settle(l, under, files, w.Mark, t)
}

// announce writes what will be there into the ledger, and makes directories.
func (f *Files) announce(l *ledger, under *entry, t *todo) error {
	tree := f.tree()
	var dirs []string
	for _, one := range t.write {
		missing, err := tree.missing(one.path)
		if err != nil {
			return err
		}
		for _, dir := range missing {
			if !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
		its := under.Files[one.path]
		if its == nil {
			its = &put{}
			under.Files[one.path] = its
		}
		if !slices.Contains(its.Sums, one.sum()) {
			its.Sums = append(its.Sums, one.sum())
		}
		its.Mode, its.UID, its.GID = one.mode, one.uid, one.gid
	}
	for _, dir := range dirs {
		if !slices.Contains(l.Dirs, dir) {
			l.Dirs = append(l.Dirs, dir)
		}
	}
	if err := f.save(l); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := tree.mkdir(dir); err != nil {
			return err
		}
	}
	return nil
}

// put changes files.
func (f *Files) put(t *todo, under *entry) error {
	tree := f.tree()
	for i, one := range t.write {
		if err := tree.prepare(one); err != nil {
			for _, prepared := range t.write[:i] {
				tree.discard(prepared.path)
			}
			return err
		}
	}
	for _, one := range t.write {
		if err := tree.commit(one, under.Files[one.path]); err != nil {
			for _, prepared := range t.write {
				tree.discard(prepared.path)
			}
			return err
		}
	}
	for _, path := range slices.Concat(t.remove, t.leave, t.gone) {
		if err := f.takeBack(path, under.Files[path]); err != nil {
			return err
		}
	}
	return nil
}

// settle writes what is there by now into the ledger.
func (f *Files) settle(l *ledger, e *entry, files []*file, mark string, t *todo) error {
	e.Mark, e.Files = mark, map[string]*put{}
	for _, one := range files {
		e.Files[one.path] = &put{Sums: []string{one.sum()}, Mode: one.mode, UID: one.uid, GID: one.gid}
	}
	f.sweep(l)
	if err := f.save(l); err != nil {
		return err
	}
	f.Log.Info("files were put", "deployment", e.String(), "steps", len(t.steps()))
	return nil
}

// takeBack deletes a file that is what was put.
func (f *Files) takeBack(path string, its *put) error {
	left, err := f.tree().remove(path, its)
	if left {
		f.Log.Warn("a file is left, because somebody changed it since it was put", "path", path)
	}
	return err
}

// sweep deletes directories that were made and in which nothing is any more. Those above
// others are shorter.
func (f *Files) sweep(l *ledger) {
	tree := f.tree()
	slices.SortFunc(l.Dirs, func(a, b string) int { return len(b) - len(a) })
	l.Dirs = slices.DeleteFunc(l.Dirs, func(dir string) bool {
		for _, e := range l.Deployments {
			for path := range e.Files {
				if below(path, dir) {
					return false
				}
			}
		}
		return tree.rmdir(dir)
	})
}

// Remove implements interpreter.Interpreter. Files have no data besides.
func (f *Files) Remove(_ context.Context, ref wire.DeploymentRef, _ wire.VolumeRetention) error {
	l, err := readLedger(f.Dir)
	if err != nil {
		return err
	}
	return f.remove(l, ref.String())
}

func (f *Files) remove(l *ledger, name string) error {
	e := l.Deployments[name]
	if e == nil {
		return nil
	}
	for _, path := range slices.Sorted(maps.Keys(e.Files)) {
		if err := f.takeBack(path, e.Files[path]); err != nil {
			return err
		}
	}
	delete(l.Deployments, name)
	f.sweep(l)
	if err := f.save(l); err != nil {
		return err
	}
	f.Log.Info("files were taken back", "deployment", name)
	return nil
}

// Halt implements interpreter.Interpreter. A file does not run: it stays as it is.
func (f *Files) Halt(_ context.Context, ref wire.DeploymentRef) error {
	l, err := readLedger(f.Dir)
	if err != nil {
		return err
	}
	e := l.Deployments[ref.String()]
	if e == nil || e.Halted {
		return nil
	}
	e.Halted = true
	return f.save(l)
}

// Wipe implements interpreter.Interpreter.
func (f *Files) Wipe(context.Context) error {
	l, err := readLedger(f.Dir)
	if err != nil {
		return err
	}
	var all error
	for _, name := range slices.Sorted(maps.Keys(l.Deployments)) {
		all = errors.Join(all, f.remove(l, name))
	}
	return all
}

var _ interpreter.Interpreter = (*Files)(nil)
