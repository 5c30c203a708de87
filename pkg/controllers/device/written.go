package device

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
)

// behind is how long a cache may be behind. After that, the API store is another one.
const behind = time.Minute

// written is a version of a Device that we wrote.
type written struct {
	uid     types.UID
	version string
	at      time.Time
}

func (c *Controller) noteWritten(d *v1alpha1.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written[d.Name] = written{d.UID, d.ResourceVersion, time.Now()}
}

func (c *Controller) noteStatus(d *v1alpha1.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.statuses[d.Name] = d.ResourceVersion
}

// isOwnStatus reports whether a version of a Device differs from what we looked at last by
// the status that we wrote, and by nothing else: it was written for no other version. Such
// an update is no work. One that comes before this is noted is looked at in vain.
func (c *Controller) isOwnStatus(d *v1alpha1.Device) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statuses[d.Name] == d.ResourceVersion
}

// isBehind reports whether a Device, as an informer has it, is from before what we wrote last.
// Nothing is decided by it: a device that reports as it did before that would be taken for one
// whose object has the report.
func (c *Controller) isBehind(d *v1alpha1.Device) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, is := c.written[d.Name]
	if !is {
		return false
	}
	if w.uid == d.UID && older(d.ResourceVersion, w.version) && time.Since(w.at) < behind {
		return true
	}
	delete(c.written, d.Name)
	return false
}

// older reports whether a version of an object is older than another one of it.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}
