// Package images keeps account of the images that the agent pulled: which they are, and
// for how long nothing has needed them.
//
// A Book counts the time during which it saw that nothing needs an image, by a clock that
// nobody sets. Time when the device or the agent was off does not count, so that neither a
// clock that is set nor a device that lay in a drawer for a year makes an image old.
//
// Only what the Book knows may be removed. An image that somebody else brought to the
// device, or gave a name of its own, is somebody else's.
package images

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
)

const (
	// maxRecords bounds the images that something is known of.
	maxRecords = 1024
	// maxUnseen bounds the time between two looks that counts: longer, the device slept.
	maxUnseen = time.Hour
	// saveEvery is how much of the time that was counted may be lost.
	saveEvery = time.Hour
)

// Book has the records of the images that the agent pulled. Its methods may be called
// concurrently.
type Book struct {
	keeper runs.Keeper
	now    func() runs.Moment
	log    *slog.Logger

	mu sync.Mutex // guards what follows
	records
	// looked is when it last saw all images; zero before the first look of this agent.
	looked  runs.Moment
	unsaved time.Duration
	changed bool
}

// records are what is on the disk.
type records struct {
	// Pulled are the names that were pulled and whose images were not seen since.
	Pulled []string `json:"pulled,omitempty"`
	// Images are by id.
	Images map[string]record `json:"images,omitempty"`
}

// record is what is known of one image.
type record struct {
	// Names are those by which it was pulled.
	Names []string `json:"names,omitempty"`
	// Unneeded is for how long nothing has needed it.
	Unneeded time.Duration `json:"unneeded,omitempty"`
}

// Candidate is an image that may be removed.
type Candidate struct {
	container.StoredImage

	// Unneeded is for how long nothing has needed it.
	Unneeded time.Duration
}

// New returns a book that begins with what keeper remembers; keeper may be nil.
func New(keeper runs.Keeper, now func() runs.Moment, log *slog.Logger) *Book {
	b := &Book{keeper: keeper, now: now, log: log}
	if keeper != nil && !keeper.Load(&b.records) {
		b.records = records{}
	}
	if b.Images == nil {
		b.Images = map[string]record{}
	}
	return b
}

// Pull notes, before it happens, that the agent pulls an image which is not on the device.
// It is on the disk then, so that the image is known after a power cut, too.
func (b *Book) Pull(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name = Canonical(name)
	if slices.Contains(b.Pulled, name) || len(b.Pulled) >= maxRecords {
		return
	}
	b.Pulled, b.changed = append(b.Pulled, name), true
	b.save()
}

// Got notes which image a pull brought.
func (b *Book) Got(name, id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name = Canonical(name)
	i := slices.Index(b.Pulled, name)
	if _, known := b.Images[id]; i < 0 || !known && len(b.Images) >= maxRecords {
		return
	}
	b.Pulled = slices.Delete(b.Pulled, i, i+1)
	b.Images[id] = b.Images[id].with(name)
	b.save()
}

// with adds a name.
func (r record) with(name string) record {
	if !slices.Contains(r.Names, name) {
		r.Names = append(slices.Clone(r.Names), name)
	}
	return r
}

// See takes a look at all images, by the canonical names of those that are needed, and returns
// those that may be removed: the longest unneeded come first.
func (b *Book) See(all []container.StoredImage, needed []string) []Candidate {
	b.mu.Lock()
	defer b.mu.Unlock()
	passed := b.passed()
	var candidates []Candidate
	next := map[string]record{}
	for _, image := range all {
		r, known := b.identify(image)
		if !known || len(next) >= maxRecords {
			continue
		}
		if isNeeded(image, needed) || !isOurs(image, r.Names) {
			b.changed = b.changed || r.Unneeded > 0
			r.Unneeded = 0
		} else {
			r.Unneeded += passed
			candidates = append(candidates, Candidate{image, r.Unneeded})
		}
		next[image.ID] = r
	}
	b.changed = b.changed || len(next) != len(b.Images)
	b.Images = next
	b.settle(needed)
	if b.unsaved += passed; b.changed || b.unsaved >= saveEvery {
		b.save()
	}
	slices.SortFunc(candidates, func(x, y Candidate) int {
		return cmp.Or(cmp.Compare(y.Unneeded, x.Unneeded), cmp.Compare(x.ID, y.ID))
	})
	return candidates
}

// passed is the time since the last look that counts.
func (b *Book) passed() time.Duration {
	before, now := b.looked, b.now()
	b.looked = now
	if before == (runs.Moment{}) || before.Boot != now.Boot {
		return 0
	}
	return min(max(now.Uptime-before.Uptime, 0), maxUnseen)
}

// identify returns the record of an image, and false for one that the agent did not pull.
func (b *Book) identify(image container.StoredImage) (record, bool) {
	r, known := b.Images[image.ID]
	for _, name := range slices.Concat(image.Names, image.Digests) {
		name = Canonical(name)
		if i := slices.Index(b.Pulled, name); i >= 0 {
			b.Pulled, b.changed, known = slices.Delete(b.Pulled, i, i+1), true, true
			r = r.with(name)
		}
	}
	return r, known
}

// settle forgets the pulls that ended without an image and that nothing waits for.
func (b *Book) settle(needed []string) {
	before := len(b.Pulled)
	b.Pulled = slices.DeleteFunc(b.Pulled, func(name string) bool { return !slices.Contains(needed, name) })
	b.changed = b.changed || len(b.Pulled) != before
}

// save must be called with mu held. What cannot be saved is tried again at the next look.
func (b *Book) save() {
	if b.keeper == nil {
		return
	}
	if err := b.keeper.Save(b.records); err != nil {
		b.log.Warn("what is known of the images could not be saved", "error", err)
		return
	}
	b.changed, b.unsaved = false, 0
}

func isNeeded(image container.StoredImage, needed []string) bool {
	return image.Used || slices.ContainsFunc(slices.Concat(image.Names, image.Digests), func(name string) bool { return slices.Contains(needed, Canonical(name)) })
}

// isOurs reports whether an image has no name by which the agent did not pull it.
func isOurs(image container.StoredImage, names []string) bool {
	return !slices.ContainsFunc(image.Names, func(name string) bool { return !slices.Contains(names, Canonical(name)) })
}

// Canonical is the name of an image as a runtime writes it: with the tag that is meant when
// there is none, and without one beside a digest.
func Canonical(name string) string {
	name, digest, byDigest := strings.Cut(name, "@")
	slash, colon := strings.LastIndex(name, "/"), strings.LastIndex(name, ":")
	switch tagged := colon > slash; {
	case byDigest && tagged:
		return name[:colon] + "@" + digest
	case byDigest:
		return name + "@" + digest
	case tagged:
		return name
	}
	return name + ":latest"
}
