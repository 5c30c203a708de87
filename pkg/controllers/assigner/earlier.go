package assigner

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"k8s.io/utils/lru"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// searchedDevices is for how many devices it is remembered what their earlier bodies are.
	searchedDevices = 256
	// knownKinds is of how many revisions it is remembered whether they are templates.
	knownKinds = 4096
)

// earlier remembers what was learned of revisions while devices asked for earlier bodies. A
// device may ask for anything, and reading and rendering all revisions takes seconds.
type earlier struct {
	// searches are by device: *search.
	searches *lru.Cache
	// kinds are by the hash of the revision: kind.
	kinds *lru.Cache
}

func newEarlier() *earlier {
	return &earlier{searches: lru.New(searchedDevices), kinds: lru.New(knownKinds)}
}

// kind says what a revision is.
type kind int

const (
	plain     kind = iota // the same on each device
	templated             // rendered for each device
	unusable              // a template that is not valid now
)

// revisionOf names a revision of a Deployment, by its key.
type revisionOf struct{ deployment, hash string }

// search is what the revisions of a device's Deployments are rendered to. Each is rendered once
// for each manifest of the device, whatever the device asks for.
type search struct {
	// seq is of the manifest.
	seq uint64

	mu sync.Mutex // guards what follows, and is held while a revision is read and rendered
	// left are not rendered yet, found are by the hash of what they are rendered to.
	left  []revisionOf
	found map[string]revisionOf
}

// find returns what has a hash, as render renders revisions; that returns nil for what it
// cannot render.
func (s *search) find(ctx context.Context, hash string, render func(revisionOf) []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, is := s.found[hash]; is {
		return render(r)
	}
	for len(s.left) > 0 && ctx.Err() == nil {
		r := s.left[0]
		body := render(r)
		if body == nil && ctx.Err() != nil {
			return nil // the next one goes on here
		}
		s.left = s.left[1:]
		if body == nil {
			continue
		}
		sum := wire.Sum(body).String()
		if s.found[sum] = r; sum == hash {
			return body
		}
	}
	return nil
}

// searchOf returns the search for a device with a manifest.
func (c *Controller) searchOf(device string, seq uint64, wanted []*v1alpha1.Deployment) *search {
	if known, is := c.earlier.searches.Get(device); is && known.(*search).seq == seq { //nolint:forcetypeassert // of what follows
		return known.(*search) //nolint:forcetypeassert // of what follows
	}
	s := &search{seq: seq, found: map[string]revisionOf{}}
	age := map[revisionOf]int{}
	for _, d := range wanted {
		for i, hash := range c.Revisions.Hashes(d) {
			r := revisionOf{d.Namespace + "/" + d.Name, hash}
			age[r] = i
			s.left = append(s.left, r)
		}
	}
	// what a device has not fetched yet was replaced a moment ago
	slices.SortStableFunc(s.left, func(a, b revisionOf) int { return cmp.Compare(age[a], age[b]) })
	c.earlier.searches.Add(device, s)
	return s
}

// plainRevision returns a score that a Deployment has or had and that is the same on each
// device, nil when there is none.
func (c *Controller) plainRevision(ctx context.Context, d *v1alpha1.Deployment, hash string) []byte {
	if known, is := c.earlier.kinds.Get(hash); is && known != plain {
		return nil
	}
	body := c.revision(ctx, d, hash)
	if body == nil {
		return nil
	}
	if _, k := c.templateOf(d, hash, body); k != plain {
		return nil
	}
	return body
}

// rendering renders a revision with the values that a device has now; nil when that cannot be.
func (c *Controller) rendering(ctx context.Context, r revisionOf, values template.Values) []byte {
	if known, is := c.earlier.kinds.Get(r.hash); is && known != templated {
		return nil
	}
	o, exists, err := c.Deployments.GetStore().GetByKey(r.deployment)
	if err != nil || !exists {
		return nil
	}
	d := o.(*v1alpha1.Deployment)
	revision := c.revision(ctx, d, r.hash)
	if revision == nil {
		return nil
	}
	tmpl, _ := c.templateOf(d, r.hash, revision)
	if tmpl == nil {
		return nil
	}
	body, err := tmpl.Render(values)
	if err != nil {
		return nil
	}
	return body
}

// templateOf returns what a revision is, and its template.
func (c *Controller) templateOf(d *v1alpha1.Deployment, hash string, body []byte) (*acceptance.Template, kind) {
	if known, is := c.earlier.kinds.Get(hash); is && known == plain {
		return nil, plain
	}
	tmpl, err := c.Verdicts.Template(d, body)
	k := unusable
	switch {
	case err == nil && tmpl == nil:
		k = plain
	case err == nil:
		k = templated
	}
	c.earlier.kinds.Add(hash, k)
	return tmpl, k
}
