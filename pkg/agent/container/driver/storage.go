package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/images"
	"fleet.nationtech.io/fleet/pkg/dirty"
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
	// exchangeEvery is the least time between two exchanges of one image.
	exchangeEvery = time.Hour
	// inspectTimeout bounds a look.
	inspectTimeout = 2 * time.Minute
	// lookEvery is the time until a storage is looked at that nothing made suspect: a card
	// that wears out damages what lies there, and nobody notices before the next start.
	lookEvery = 24 * time.Hour
	// flushTimeout bounds how long a pull waits for the disk, and promotionFlush how long a
	// container that takes the place of another one does.
	flushTimeout, promotionFlush = 2 * time.Minute, 20 * time.Second
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
	// damaged says what is wrong with images, by name, as the last look found them, and exchanged
	// when one was removed and pulled again, by id.
	damaged   map[string]string
	exchanged map[string]time.Time
}

func newKeeper(s Storage) *keeper {
	return &keeper{Storage: s, wake: make(chan struct{}, 1), alarmed: make(chan struct{}, 1), mending: map[string]bool{}, exchanged: map[string]time.Time{}}
}

// suspect asks for a look.
func (k *keeper) suspect() { dirty.Signal(k.wake) }

// alarm asks for a look soon: the runtime says that something is damaged, or an image was
// pulled for a service.
func (k *keeper) alarm() { dirty.Signal(k.alarmed) }

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

// mayExchange reports whether an image may be removed and pulled again: one that is damaged
// still costs its download, and what was made of it, once in a while only.
func (k *keeper) mayExchange(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.exchanged, func(_ string, at time.Time) bool { return time.Since(at) >= exchangeEvery })
	_, was := k.exchanged[id]
	return !was
}

// mend marks an image until the returned function is called.
func (k *keeper) mend(id string) (done func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mending[id], k.exchanged[id] = true, time.Now()
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
	var exchanges []*exchange
	for _, x := range damages {
		switch x.Kind {
		case storage.Image:
			if e := d.exchangeOf(ctx, x); e != nil {
				exchanges = append(exchanges, e)
			}
		case storage.Migration:
			notes = append(notes, fmt.Sprintf("podman's storage is damaged: %s: %s: see troubleshooting.md", x.What, x.Why))
		}
	}
	d.exchange(ctx, exchanges, changed)
	for _, e := range exchanges {
		if e.failure == "" {
			continue
		}
		notes = append(notes, e.about+e.failure)
		for _, name := range e.names {
			damaged[images.Canonical(name)] = e.why
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

// exchange is about an image that is damaged: it is removed, with the containers that were
// made of it, and pulled again; volumes stay.
type exchange struct {
	id, why, about string
	names          []string
	users          []container.Container
	// failure says why that was not done; empty when it was.
	failure string
}

// exchangeOf checks whether an image can be exchanged. It returns nil for one that is gone.
func (d *Driver) exchangeOf(ctx context.Context, damage storage.Damage) *exchange {
	names, users, err := d.usersOf(ctx, damage.What)
	if err != nil || len(names)+len(users) == 0 {
		return nil // it is gone meanwhile, or the next look finds it
	}
	e := &exchange{id: damage.What, why: damage.Why, names: names, users: users}
	e.about = fmt.Sprintf("image %s is damaged on the disk (%s)", cmp.Or(strings.Join(names, ", "), damage.What), damage.Why)
	switch {
	case len(names) == 0:
		e.failure = ", and has no name by which it could be pulled again"
	case slices.ContainsFunc(users, goesOn):
		e.failure = ": what runs of it goes on, and it is pulled again when that ends"
	case !d.keeper.mayExchange(e.id):
		e.failure = ": it was pulled again within the last hour, and is as before"
	default:
		e.failure = d.obtainable(ctx, names)
	}
	return e
}

func goesOn(c container.Container) bool {
	return c.State == container.StateRunning && time.Since(c.Since) > passing
}

// obtainable says why an image cannot be pulled, or nothing: only what can be had is removed.
func (d *Driver) obtainable(ctx context.Context, names []string) string {
	for _, name := range names {
		if err := d.pull(ctx, d.moving.puller(name), name); err != nil {
			return fmt.Sprintf(" and cannot be pulled again: %v", err)
		}
	}
	return ""
}

// flush waits until an image that was pulled, or a container that takes the place of another
// one, is on the disk. Podman waits for nothing, so that a power cut half a minute later would
// leave layers whose files are empty. A card that takes too long keeps nothing from starting:
// what it lost is found at the next start.
func (d *Driver) flush(ctx context.Context, what string, most time.Duration) {
	if d.keeper.Storage == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, most)
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

// exchange removes all images and then pulls them: those that share a layer that is damaged
// would keep it otherwise, and podman takes what is there for whole.
func (d *Driver) exchange(ctx context.Context, all []*exchange, changed func(wire.DeploymentRef)) {
	all = slices.DeleteFunc(slices.Clone(all), func(e *exchange) bool { return e.failure != "" })
	d.exchangeAll(ctx, all)
	for _, e := range all {
		for _, c := range e.users {
			changed(c.Ref)
		}
	}
}

func (d *Driver) exchangeAll(ctx context.Context, all []*exchange) {
	for _, e := range all {
		d.log.Warn("replacing an image that is damaged", "image", e.names, "reason", e.why, "containers", len(e.users))
		d.keeper.say(e.about + ": it is removed and pulled again now")
		defer d.keeper.mend(e.id)()
		if err := d.discardImage(ctx, e); err != nil {
			e.failure = ": " + err.Error()
		}
	}
	for _, e := range all {
		for _, name := range e.names {
			if err := d.pull(ctx, d.moving.puller(name), name); err != nil {
				e.failure = ": " + err.Error()
			}
		}
	}
}

// discardImage removes an image and the containers of it.
func (d *Driver) discardImage(ctx context.Context, e *exchange) error {
	for _, c := range e.users {
		if err := d.remove(ctx, c); err != nil {
			return err
		}
	}
	for _, name := range e.names {
		if err := d.runtime.RemoveImage(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
