package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/images"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// Prune says which images go that the agent pulled and nothing needs.
type Prune struct {
	// After is for how long an image is kept that nothing needs; zero for ever.
	After time.Duration
	// Above is the percentage of the image store's file system that may be used before
	// images go, the longest unneeded first, until DownTo is used; zero for any.
	Above, DownTo int
}

// off reports whether all images are kept.
func (p Prune) off() bool { return p.After <= 0 && p.Above <= 0 }

// pruneEvery is the time between two looks at the images, unless a pull wants space.
const pruneEvery = 10 * time.Minute

// pruner removes images.
type pruner struct {
	rules Prune
	book  *images.Book

	mu sync.Mutex // guards what follows
	// last is when it looked, zero for never. wanted: a pull lacked space since.
	last   runs.Moment
	wanted bool
}

// want notes that a pull lacks space.
func (p *pruner) want() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = true
}

// due reports whether it is time to look, and whether a pull lacks space.
func (p *pruner) due(now runs.Moment) (due, wanted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	due = p.wanted || p.last == (runs.Moment{}) || p.last.Boot != now.Boot || now.Uptime-p.last.Uptime >= pruneEvery
	wanted = p.wanted
	if due {
		p.last, p.wanted = now, false
	}
	return due, wanted
}

// Needs implements workload.Keeper: workloads need images.
func (d *Driver) Needs(w workload.Workload) (names []string) {
	for _, s := range of(w).Services {
		names = append(names, images.Canonical(s.Image))
	}
	return names
}

// Missing implements workload.Keeper. Whether an image is whole the last look at the storage
// tells, since another one would read much.
func (d *Driver) Missing(ctx context.Context, needs []string) (missing []string, err error) {
	for _, name := range needs {
		here, err := d.runtime.ImageExists(ctx, name)
		if err != nil {
			return nil, err
		}
		damage := d.keeper.damageOf(name)
		switch {
		case !here:
			missing = append(missing, "image "+name)
		case damage != "":
			missing = append(missing, fmt.Sprintf("image %s, which is damaged on the disk (%s),", name, damage))
		}
	}
	return missing, nil
}

// Collect implements workload.Keeper.
func (d *Driver) Collect(ctx context.Context, needs []string) error {
	due, wanted := d.pruner.due(d.runs.Now())
	if !due || d.pruner.rules.off() {
		return nil
	}
	all, err := d.runtime.Images(ctx)
	if err != nil {
		return err
	}
	candidates := d.pruner.book.See(all, needs)
	if len(candidates) == 0 {
		return nil
	}
	kept, err := d.resolve(ctx, needs)
	if err != nil {
		return err
	}
	limit, err := d.limit(ctx, wanted)
	for _, c := range candidates {
		if err != nil {
			return err
		}
		if kept[c.ID] {
			continue
		}
		err = d.prune(ctx, c, limit)
	}
	return err
}

// resolve returns the ids that the runtime itself finds by names: what it calls an image
// is not left to how names are compared here.
func (d *Driver) resolve(ctx context.Context, names []string) (map[string]bool, error) {
	ids := map[string]bool{}
	for _, name := range names {
		image, err := d.runtime.Image(ctx, name)
		if err != nil && !errors.Is(err, container.ErrNotFound) {
			return nil, err
		}
		ids[image.ID] = true
	}
	return ids, nil
}

// limit is how many bytes may be used before the next image goes for want of space. A pull
// that found too little takes all there is, if need be.
func (d *Driver) limit(ctx context.Context, wanted bool) (uint64, error) {
	info, err := d.room(ctx)
	rules := d.pruner.rules
	if err != nil || info.StoreSize == 0 || rules.Above <= 0 {
		return ^uint64(0), err
	}
	above, downTo := share(info.StoreSize, rules.Above), share(info.StoreSize, rules.DownTo)
	switch {
	case info.StoreUsed > above || wanted && info.StoreUsed > downTo:
		return downTo, nil
	case wanted:
		return 0, nil
	}
	return ^uint64(0), nil
}

func share(of uint64, percent int) uint64 { return of / 100 * uint64(percent) }

// prune removes an image that is without a name, was not needed for too long, or takes
// space that is needed.
func (d *Driver) prune(ctx context.Context, c images.Candidate, limit uint64) error {
	unnamed := len(c.Names)+len(c.Digests) == 0
	old := d.pruner.rules.After > 0 && c.Unneeded >= d.pruner.rules.After
	if !unnamed && !old {
		info, err := d.room(ctx)
		if err != nil || info.StoreUsed <= limit {
			return err
		}
	}
	d.log.Info("removing an image that nothing needs", "image", c.ID, "names", c.Names, "unneeded", c.Unneeded.Round(time.Second))
	names := c.Names
	if len(names) < 2 {
		names = []string{c.ID} // another image may have got the name meanwhile
	}
	for _, name := range names {
		err := d.runtime.RemoveImage(ctx, name)
		if errors.Is(err, container.ErrUnavailable) {
			return err
		}
		if err != nil { // as of a container that was made of it meanwhile
			d.log.Warn("an image that nothing needs stays", "image", c.ID, "error", err)
			return nil
		}
	}
	return nil
}
