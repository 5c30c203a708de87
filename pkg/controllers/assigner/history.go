package assigner

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/reconcile"
)

// history lets new scores wait for their revisions. It has queues of its own, so that an
// API that is slow, or refuses one of them, keeps nothing else waiting.
type history struct {
	// fresh are the keys of Deployments whose score waits; settled are those whose score
	// was told before: after an upgrade these may be many, and must be before no fresh one.
	fresh, settled *reconcile.Queue[string]
	// writing is held while a revision is written: for fresh and settled ones in turn.
	writing sync.Mutex

	mu sync.Mutex // guards scores
	// scores are those that devices may be told of, by the key of the Deployment.
	scores map[string]toldScore
}

type toldScore struct {
	deployment types.UID
	hash       string
}

func newHistory(m *reconcile.Metrics) *history {
	return &history{fresh: reconcile.NewQueue[string]("revisions", m), settled: reconcile.NewQueue[string]("revisions-settled", m), scores: map[string]toldScore{}}
}

// told reports whether devices may be told of a score by now, and sees to its revision.
func (h *history) told(key string, s toldScore) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.scores[key] == s {
		h.settled.Add(key)
		return true
	}
	h.fresh.Add(key)
	return false
}

// tell lets devices be told of a score, and reports whether that is new.
func (h *history) tell(key string, s toldScore) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = h.scores[key] != s
	h.scores[key] = s
	return changed
}

func (h *history) forget(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.scores, key)
}

// keepRevisions works until ctx ends.
func (c *Controller) keepRevisions(ctx context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	for _, queue := range []*reconcile.Queue[string]{c.history.fresh, c.history.settled} {
		g.Go(func() error {
			reconcile.Work(ctx, queue, c.Logger, func(ctx context.Context, key string) (time.Duration, error) {
				return 0, c.keepRevisionOf(ctx, key)
			})
			return nil
		})
	}
	_ = g.Wait() // nothing fails
}

func (c *Controller) keepRevisionOf(ctx context.Context, key string) error {
	c.history.writing.Lock()
	defer c.history.writing.Unlock()
	o, exists, err := c.Deployments.GetStore().GetByKey(key)
	if err != nil || !exists {
		return nil
	}
	d := o.(*v1alpha1.Deployment)
	v := c.Verdicts.Of(d)
	if !mayTell(d, v) {
		return nil
	}
	if err := c.keepRevision(ctx, d, v); err != nil {
		return err
	}
	if c.history.tell(key, scoreOf(d, v)) {
		c.queue.Add(item{deploymentItem, key})
	}
	return nil
}

// mayTell reports whether devices may be told of the score at all.
func mayTell(d *v1alpha1.Deployment, v *acceptance.Verdict) bool {
	return v.Accepted && d.DeletionTimestamp.IsZero()
}

func scoreOf(d *v1alpha1.Deployment, v *acceptance.Verdict) toldScore {
	return toldScore{d.UID, v.Entry.Hash}
}

// keepRevision writes a score to the API before any device is told of it, so that
// what devices were told can be found later. Until then they keep what they have.
func (c *Controller) keepRevision(ctx context.Context, d *v1alpha1.Deployment, v *acceptance.Verdict) error {
	ctx, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	return c.Revisions.Keep(ctx, d, v.Entry.Hash, v.Body)
}
