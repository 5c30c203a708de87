package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/images"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// followEvery is the time between two looks at a registry for an image that moves.
const followEvery = time.Hour

// moving are the images whose names are followed: those of services with PullAlways. A name
// may be given to another image at any time, so that the id of the image is a part of what a
// container is made from.
type moving struct {
	mu sync.Mutex // guards what follows
	// ids are those of the images that names had on the device when somebody looked last.
	ids map[string]string
	// wanted are the workloads that follow names or have logins for pulls.
	wanted map[wire.DeploymentRef]*plan.Workload
	// problems says why names could not be followed, by Deployment and image.
	problems map[wire.DeploymentRef]map[string]string
}

func newMoving() *moving {
	return &moving{ids: map[string]string{}, wanted: map[wire.DeploymentRef]*plan.Workload{}, problems: map[wire.DeploymentRef]map[string]string{}}
}

// followed are the images that a workload follows, each once.
func followed(w *plan.Workload) (names []string) {
	for i := range w.Services {
		if s := &w.Services[i]; s.Pull == container.PullAlways && !slices.Contains(names, s.Image) {
			names = append(names, s.Image)
		}
	}
	return names
}

// resolve returns the workload whose services have the hashes of the images that their names
// stood for when somebody looked last.
func (m *moving) resolve(w *plan.Workload) *plan.Workload {
	if len(followed(w)) == 0 {
		return w
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := *w
	out.Services = slices.Clone(w.Services)
	for i := range out.Services {
		s := &out.Services[i]
		if id := m.ids[s.Image]; s.Pull == container.PullAlways && id != "" {
			s.Hash = wire.Sum([]byte(s.Hash + "@" + id)).String()
		}
	}
	return &out
}

func (m *moving) want(w *plan.Workload) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wanted[w.Ref] = w; len(followed(w)) > 0 {
		return
	}
	delete(m.problems, w.Ref)
	if len(w.Logins) == 0 {
		delete(m.wanted, w.Ref)
	}
}

// puller is a workload that may pull an image for no Deployment in particular: one that uses
// it and has a login for it, or else one that has nothing.
func (m *moving) puller(image string) *plan.Workload {
	for _, w := range m.list() {
		uses := slices.ContainsFunc(w.Services, func(s container.Spec) bool { return images.Canonical(s.Image) == images.Canonical(image) })
		if uses && w.LoginFor(image) != nil {
			return w
		}
	}
	return &plan.Workload{}
}

func (m *moving) forget(ref wire.DeploymentRef) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.wanted, ref)
	delete(m.problems, ref)
}

// note notes the id that a name has, and reports whether that is another one.
func (m *moving) note(image, id string) (moved bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.ids[image]
	m.ids[image] = id
	return before != id
}

// fail notes why a name could not be followed, nil for nothing, and reports whether that is
// another reason.
func (m *moving) fail(ref wire.DeploymentRef, image string, err error) (changed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := ""
	if err != nil {
		text = fmt.Sprintf("the newest image %q cannot be looked for, and the present one goes on: %v", image, err)
	}
	if m.problems[ref] == nil {
		m.problems[ref] = map[string]string{}
	}
	before := m.problems[ref][image]
	if m.problems[ref][image] = text; text == "" {
		delete(m.problems[ref], image)
	}
	return before != text
}

// problem says why an image of a Deployment could not be followed; empty for none.
func (m *moving) problem(w *plan.Workload) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, image := range followed(w) {
		if text := m.problems[w.Ref][image]; text != "" {
			return text
		}
	}
	return ""
}

func (m *moving) list() (all []*plan.Workload) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.wanted {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b *plan.Workload) int { return a.Ref.Compare(b.Ref) })
	return all
}

// lookUp notes what the names of a workload stand for on the device.
func (d *Driver) lookUp(ctx context.Context, w *plan.Workload) error {
	d.moving.want(w)
	for _, image := range followed(w) {
		found, err := d.runtime.Image(ctx, image)
		if err != nil && !errors.Is(err, container.ErrNotFound) {
			return err
		}
		if err == nil {
			d.moving.note(image, found.ID)
		}
	}
	return nil
}

// renewals are the steps that look for the newest images of a workload that was changed.
// Those that are not on the device are pulled anyway.
func (i *instance) renewals(ctx context.Context, w *plan.Workload) (steps []workload.Step, err error) {
	for _, image := range followed(w) {
		here, err := i.runtime.ImageExists(ctx, image)
		if err != nil {
			return nil, err
		}
		if here {
			steps = append(steps, workload.Step{
				Kind: workload.Fetch, Name: fmt.Sprintf("pulling image %q", image), Progress: i.progress(w, image),
				Do: func(ctx context.Context) error {
					_, err := i.follow(ctx, w, image)
					return err
				},
			})
		}
	}
	return steps, nil
}

// follow pulls an image whose name may have moved, and reports whether there is anything new
// to say or to do. That the registry cannot be reached is noted, and no error: what runs goes
// on.
func (d *Driver) follow(ctx context.Context, w *plan.Workload, image string) (changed bool, err error) {
	err = d.pull(ctx, w, image)
	if ctx.Err() != nil || errors.Is(err, container.ErrUnavailable) {
		return false, err
	}
	changed = d.moving.fail(w.Ref, image, err)
	if found, err := d.runtime.Image(ctx, image); err == nil {
		changed = d.moving.note(image, found.ID) || changed
	}
	return changed, nil
}

// followAll looks for the newest images of all workloads from time to time, until ctx ends.
func (d *Driver) followAll(ctx context.Context, changed func(wire.DeploymentRef)) {
	timer := time.NewTicker(d.followEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		for _, w := range d.moving.list() {
			for _, image := range followed(w) {
				news, err := d.follow(ctx, w, image)
				if err != nil {
					d.log.Debug("an image cannot be followed at present", "image", image, "error", err)
				}
				if news {
					changed(w.Ref)
				}
			}
		}
	}
}
