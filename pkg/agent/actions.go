package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/plan"
)

// errSuperseded: a newer manifest made the pass obsolete.
var errSuperseded = errors.New("superseded by a newer manifest")

// execute does what was planned, up to the first error. After one it only
// starts containers that are what they should be already: an image that cannot
// be had for one service is no reason to keep another down.
func (p *pass) execute(ctx context.Context, actions []plan.Action) error {
	var failure error
	for _, a := range actions {
		if p.superseded() {
			return errSuperseded
		}
		if failure != nil && a.Kind != plan.Start {
			continue
		}
		if err := p.do(ctx, a); err != nil && failure == nil {
			failure = err
		}
	}
	return failure
}

// superseded reports whether what was planned is obsolete.
func (p *pass) superseded() bool {
	select {
	case <-p.run.Superseded:
		return true
	default:
		return false
	}
}

func (p *pass) do(ctx context.Context, a plan.Action) error {
	if a.Kind == plan.Pull {
		return p.pull(ctx, a.Image)
	}
	if err := acquire(ctx, p.slots); err != nil {
		return err
	}
	defer release(p.slots)
	ctx, cancel := context.WithTimeout(ctx, actionTimeout)
	defer cancel()
	switch a.Kind {
	case plan.EnsureVolume:
		return p.runtime.EnsureVolume(ctx, p.ref, a.Volume)
	case plan.EnsureSecret:
		return p.runtime.EnsureSecret(ctx, a.Secret, a.Content)
	case plan.Remove:
		return p.remove(ctx, a.Container)
	case plan.Create:
		return p.create(ctx, a.Spec)
	case plan.Start:
		if err := p.mounts.allows(a.Container.Mounts); err != nil {
			return err
		}
		p.log.Info("starting container", "container", a.Container.Name)
		return p.runtime.Start(ctx, a.Container.ID)
	case plan.RemoveVolume:
		p.log.Info("removing volume", "volume", a.Volume)
		return p.runtime.RemoveVolume(ctx, a.Volume)
	}
	return fmt.Errorf("planned action %v is unknown", a.Kind)
}

func (p *pass) create(ctx context.Context, spec *container.Spec) error {
	// Once more: the image may have taken an hour to come.
	if err := p.mounts.allows(spec.Mounts); err != nil {
		return err
	}
	p.log.Info("creating container", "container", spec.Name(), "image", spec.Image)
	id, err := p.runtime.Create(ctx, spec)
	if err != nil {
		return err
	}
	return p.runtime.Start(ctx, id)
}

func (p *pass) remove(ctx context.Context, c container.Container) error {
	p.log.Info("removing container", "container", c.Name)
	if err := p.runtime.Stop(ctx, c.ID); err != nil {
		return err
	}
	return p.runtime.Remove(ctx, c.ID)
}

// pull fetches an image unless it is here. It gives up when a newer manifest
// supersedes the pass, so that a wrong image can be corrected at once.
func (p *pass) pull(ctx context.Context, image string) error {
	exists, err := p.runtime.ImageExists(ctx, image)
	if err != nil || exists {
		return err
	}
	if !p.troubles.has(p.ref, p.waiting.Hash) {
		p.report(p.waiting)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pullTimeout, fmt.Errorf("pulling image %q: not done after %v", image, pullTimeout))
	defer cancel()
	ctx, supersede := context.WithCancelCause(ctx)
	defer supersede(nil)
	go func() {
		select {
		case <-p.run.Superseded:
			supersede(errSuperseded)
		case <-ctx.Done():
		}
	}()
	if err := acquire(ctx, p.pulls); err != nil {
		return context.Cause(ctx)
	}
	defer release(p.pulls)
	began := time.Now()
	p.log.Info("pulling image", "image", image)
	login, loginErr := p.login(ctx, image)
	if err := p.runtime.Pull(ctx, image, login); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if loginErr != nil {
			err = fmt.Errorf("%w (%w)", err, loginErr)
		}
		return err
	}
	p.log.Info("pulled image", "image", image, "duration", time.Since(began).Round(time.Millisecond))
	return nil
}

// acquire takes a place in a counting semaphore.
func acquire(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func release(places chan struct{}) { <-places }
