package assigner

import (
	"context"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/assignment"
	"fleet.nationtech.io/fleet/pkg/controllers/acceptance"
	"fleet.nationtech.io/fleet/pkg/score/template"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// mayRender has render look for work.
func (c *Controller) mayRender() {
	select {
	case c.due <- struct{}{}:
	default:
	}
}

// render renders what devices wait for until ctx ends. One rendering of a large score takes
// milliseconds, and devices may be thousands: everything else goes on meanwhile.
func (c *Controller) render(ctx context.Context) error {
	c.mayRender() // what a panic left
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.due:
		}
		for more := true; more && ctx.Err() == nil; {
			var changes assignment.Changes
			changes, more = c.table.Render()
			c.tell(changes)
		}
	}
}

// EarlierBody implements deviceapi.Manifests: what a device was told to run before, by
// this process or by another one, as far as its revision is kept. What was rendered is rendered
// again, with the values that the device has now.
func (c *Controller) EarlierBody(ctx context.Context, device, hash string) ([]byte, bool) {
	if !c.isReady() {
		return nil, false
	}
	if kept, is := c.rendered.Get(deviceBody{device, hash}); is {
		return kept.([]byte), true //nolint:forcetypeassert // of what follows
	}
	ctx, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	wanted := c.wanted(device)
	for _, d := range wanted {
		if body := c.revision(ctx, d, hash); body != nil && c.Verdicts.Template(d, body) == nil {
			return body, true
		}
	}
	values, known := c.valuesOf(device)
	for _, d := range wanted {
		for _, revision := range c.Revisions.Hashes(d) {
			if !known || ctx.Err() != nil {
				return nil, false
			}
			tmpl := c.Verdicts.Template(d, c.revision(ctx, d, revision))
			if body, is := renderedTo(tmpl, values, hash); is {
				c.rendered.Add(deviceBody{device, hash}, body)
				return body, true
			}
		}
	}
	return nil, false
}

// deviceBody is the key of an earlier body that a device had: no other device may have it for
// that alone.
type deviceBody struct{ device, hash string }

// renderedTo returns a rendering if it has a hash.
func renderedTo(tmpl *acceptance.Template, values template.Values, hash string) ([]byte, bool) {
	if tmpl == nil {
		return nil, false
	}
	body, err := tmpl.Render(values)
	return body, err == nil && wire.Sum(body).String() == hash
}

// wanted are the Deployments that a device should run.
func (c *Controller) wanted(device string) (wanted []*v1alpha1.Deployment) {
	for _, ref := range c.table.Wanted(device) {
		if o, exists, err := c.Deployments.GetStore().GetByKey(ref.String()); err == nil && exists {
			wanted = append(wanted, o.(*v1alpha1.Deployment))
		}
	}
	return wanted
}

// revision returns a score that a Deployment has or had, nil when it is not kept.
func (c *Controller) revision(ctx context.Context, d *v1alpha1.Deployment, hash string) []byte {
	body, err := c.Revisions.Body(ctx, d, hash)
	if err != nil {
		c.Logger.Warn("reading an earlier score", "deployment", d.Namespace+"/"+d.Name, "error", err)
	}
	return body
}

// valuesOf are those that a device has now.
func (c *Controller) valuesOf(device string) (template.Values, bool) {
	o, exists, err := c.Devices.GetStore().GetByKey(device)
	if err != nil || !exists {
		return nil, false
	}
	return deviceFacts(o.(*v1alpha1.Device)).Value, true
}
