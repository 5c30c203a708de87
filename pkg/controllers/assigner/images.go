package assigner

import (
	"context"
	"slices"
	"sync"

	"fleet.nationtech.io/fleet/pkg/score"
)

// maxImageLists bounds the bodies whose images are remembered.
const maxImageLists = 4096

// imageLists remembers the images of bodies by the hash of what these were rendered from, or
// their own: names of images have no expressions, so all renderings name the same.
type imageLists struct {
	mu    sync.Mutex // guards what follows
	lists map[string][]string
}

// of returns the images of a body, which get returns when they are not known.
func (l *imageLists) of(hash string, get func() ([]byte, bool)) []string {
	l.mu.Lock()
	list, known := l.lists[hash]
	l.mu.Unlock()
	if known {
		return list
	}
	body, ok := get()
	if !ok {
		return nil // it was replaced just now
	}
	list = score.Images(body)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lists == nil || len(l.lists) >= maxImageLists {
		l.lists = map[string][]string{}
	}
	l.lists[hash] = list
	return list
}

// Images returns the names of the images that a device is told to run, ordered, and false
// while manifests are not complete.
func (c *Controller) Images(device string) (names []string, known bool) {
	if !c.isReady() {
		return nil, false
	}
	entries, _, _ := c.table.Manifest(device)
	for i := range entries {
		if hash := entries[i].Hash; hash != "" {
			names = append(names, c.images.of(entries[i].Score(), func() ([]byte, bool) { return c.anyBody(device, hash) })...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), true
}

// anyBody is a body that the manifest names. While another score is rendered, it names an earlier
// one.
func (c *Controller) anyBody(device, hash string) ([]byte, bool) {
	if body, ok := c.Body(device, hash); ok {
		return body, true
	}
	return c.EarlierBody(context.Background(), device, hash)
}
