package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/images"
	"fleet.nationtech.io/fleet/pkg/helper/storage"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Storage looks after what the runtime keeps on the disk, as pkg/helper does.
type Storage interface {
	// Damages says what is damaged.
	Damages(ctx context.Context) ([]storage.Damage, error)
	// Repair removes or sets aside what keeps the runtime from working, and says what it did; empty
	// for nothing.
	Repair(ctx context.Context) (done string, err error)
	// Flush returns once what the runtime wrote so far is on the disk.
	Flush(ctx context.Context) error
}

const (
	// suspectEvery is the least time between two looks at a storage that was whole, and
	// againEvery the time until another one otherwise.
	suspectEvery, againEvery = 10 * time.Minute, time.Minute
	// alarmEvery is the least time between two looks when an image was pulled, or the runtime
	// itself says that something is damaged.
	alarmEvery = 10 * time.Second
	// inspectTimeout bounds a look.
	inspectTimeout = 2 * time.Minute
	// lookEvery is the time until a storage is looked at that nothing made suspect: a card
	// that wears out damages what lies there, and nobody notices before the next start.
	lookEvery = 24 * time.Hour
	// flushTimeout bounds how long a pull waits for the disk.
	flushTimeout = 2 * time.Minute
	// passing is how long a container may run that ends all the time: what runs longer goes
	// on although its image is damaged.
	passing = time.Minute
)

// keeper repairs the storage. It looks when the agent starts, as after a power cut, when
// something does not run that should, and once a day.
type keeper struct {
	Storage // nil for none

	wake, alarmed chan struct{} // capacity 1

	mu sync.Mutex // guards what follows
	// note says what is damaged and what becomes of it; mending has the images that are
	// being replaced, by id.
	note    string
	mending map[string]bool
	// damaged says what is wrong with images, by name, as the last look found them.
	damaged map[string]string
}

func newKeeper(s Storage) *keeper {
	return &keeper{Storage: s, wake: make(chan struct{}, 1), alarmed: make(chan struct{}, 1), mending: map[string]bool{}}
}

// suspect asks for a look.
func (k *keeper) suspect() { signal(k.wake) }

// alarm asks for a look soon: the runtime says that something is damaged, or an image was
// pulled, of which it takes those layers for whole that a power cut left of an earlier pull.
func (k *keeper) alarm() { signal(k.alarmed) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (k *keeper) say(notes ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note = strings.Join(notes, "; ")
}

func (k *keeper) lacks() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.note
}

// know notes what the last look found of images.
func (k *keeper) know(damaged map[string]string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.damaged = damaged
}

// damageOf says what is wrong with the image of a name; empty for nothing that is known.
func (k *keeper) damageOf(name string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.damaged[name]
}

// mend marks an image until the returned function is called.
func (k *keeper) mend(id string) (done func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mending[id] = true
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.mending, id)
	}
}

// errMending: an image cannot be used at present.
var errMending = errors.New("it is damaged on the disk, and is being removed and pulled again")

// usable reports why no container may be made of an image at present.
func (k *keeper) usable(image *container.Image) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mending[image.ID] {
		return errMending
	}
	return nil
}

// tend looks and repairs until ctx ends.
func (d *Driver) tend(ctx context.Context, changed func(wire.DeploymentRef)) {
	if d.keeper.Storage == nil {
		return
	}
	for {
		pause, whole := suspectEvery, d.repair(ctx, changed)
		if !whole {
			pause = againEvery
		}
		alarmed := d.rest(ctx, pause)
		if ctx.Err() != nil {
			return
		}
		if alarmed || !whole {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-d.keeper.wake:
		case <-d.keeper.alarmed:
		case <-time.After(lookEvery):
		}
	}
}

// rest waits between two looks, and reports whether an alarm ended it.
func (d *Driver) rest(ctx context.Context, pause time.Duration) (alarmed bool) {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(alarmEvery):
	}
	select {
	case <-ctx.Done():
		return false
	case <-d.keeper.alarmed:
		return true
	case <-time.After(pause - alarmEvery):
		return false
	}
}

// repair looks once, takes the steps that are possible, and reports whether all is whole now.
func (d *Driver) repair(ctx context.Context, changed func(wire.DeploymentRef)) (whole bool) {
	looking, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	damages, err := d.keeper.Damages(looking)
	if err != nil {
		d.log.Debug("the storage of images cannot be looked at", "error", err)
		return false
	}
	var notes []string
	damaged := map[string]string{}
	if storage.Blocking(damages) || slices.ContainsFunc(damages, func(x storage.Damage) bool { return x.Kind == storage.Rest || x.Kind == storage.Secrets }) {
		notes = append(notes, d.setAside(ctx, damages)...)
	}
	for _, x := range damages {
		switch x.Kind {
		case storage.Image:
			names, note := d.replaceImage(ctx, x, changed)
			if note == "" {
				continue
			}
			notes = append(notes, note)
			for _, name := range names {
				damaged[images.Canonical(name)] = x.Why
			}
		case storage.Migration:
			notes = append(notes, fmt.Sprintf("podman's storage is damaged: %s: %s: see troubleshooting.md", x.What, x.Why))
		}
	}
	d.keeper.say(notes...)
	d.keeper.know(damaged)
	return len(notes) == 0
}

// setAside lets the helper set aside what keeps podman from working.
func (d *Driver) setAside(ctx context.Context, damages []storage.Damage) (notes []string) {
	var what []string
	for _, x := range damages {
		if x.Kind == storage.Database || x.Kind == storage.Index || x.Kind == storage.Secrets {
			what = append(what, fmt.Sprintf("%s: %s", x.What, x.Why))
		}
	}
	text := "podman's storage is damaged: " + strings.Join(what, ", ")
	if len(what) > 0 {
		d.log.Warn("the storage of images is damaged", "what", what)
		d.keeper.say(text + ": it is repaired now")
	}
	done, err := d.keeper.Repair(ctx)
	if done != "" {
		d.log.Warn("the storage of images was repaired", "step", done)
	}
	if err == nil {
		return nil
	}
	d.log.Warn("the storage of images is not repaired yet", "error", err)
	if len(what) == 0 || done != "" {
		return nil // what was set aside takes space, and harms nothing
	}
	return []string{text + ": " + err.Error()}
}

// replaceImage removes an image that is damaged, with the containers that were made of it,
// and pulls it again. What it cannot do it says, with the names of the image; volumes stay.
func (d *Driver) replaceImage(ctx context.Context, damage storage.Damage, changed func(wire.DeploymentRef)) (names []string, note string) {
	names, users, err := d.usersOf(ctx, damage.What)
	if err != nil || len(names)+len(users) == 0 {
		return nil, "" // it is gone meanwhile, or the next look finds it
	}
	about := fmt.Sprintf("image %s is damaged on the disk (%s)", cmp.Or(strings.Join(names, ", "), damage.What), damage.Why)
	if len(names) == 0 {
		return nil, about + ", and has no name by which it could be pulled again"
	}
	for _, c := range users {
		if c.State == container.StateRunning && time.Since(c.Since) > passing {
			return names, about + ": what runs of it goes on, and it is pulled again when that ends"
		}
	}
	// Only what can be had is removed.
	for _, name := range names {
		if err := d.pull(ctx, d.moving.puller(name), name); err != nil {
			return names, fmt.Sprintf("%s and cannot be pulled again: %v", about, err)
		}
	}
	d.log.Warn("replacing an image that is damaged", "image", names, "reason", damage.Why, "containers", len(users))
	d.keeper.say(about + ": it is removed and pulled again now")
	if err := d.exchange(ctx, damage.What, names, users); err != nil {
		return names, fmt.Sprintf("%s: %v", about, err)
	}
	for _, c := range users {
		changed(c.Ref)
	}
	return names, ""
}

// flush waits until an image that was pulled, or a container that takes the place of another
// one, is on the disk. Podman waits for nothing, so that a power cut half a minute later would
// leave layers whose files are empty. A card that takes too long keeps nothing from starting:
// what it lost is found at the next start.
func (d *Driver) flush(ctx context.Context, what string) {
	if d.keeper.Storage == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := d.keeper.Flush(ctx); err != nil {
		d.log.Warn("something new may not be on the disk yet", "what", what, "error", err)
	}
}

// usersOf returns the names by which an image was pulled, and the containers of it.
func (d *Driver) usersOf(ctx context.Context, id string) (names []string, users []container.Container, err error) {
	all, err := d.runtime.Images(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, i := range all {
		if i.ID == id {
			names = i.Names
			if len(names) == 0 {
				names = i.Digests
			}
		}
	}
	list, err := d.runtime.List(ctx, wire.DeploymentRef{})
	for _, c := range list {
		if image, err := d.runtime.Image(ctx, c.Image); err == nil && image.ID == id {
			users = append(users, c)
		}
	}
	return names, users, err
}

// exchange removes an image and pulls it.
func (d *Driver) exchange(ctx context.Context, id string, names []string, users []container.Container) error {
	defer d.keeper.mend(id)()
	for _, c := range users {
		if err := d.remove(ctx, c); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := d.runtime.RemoveImage(ctx, name); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := d.pull(ctx, d.moving.puller(name), name); err != nil {
			return err
		}
	}
	return nil
}
