package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
)

// What ran and does not, as after a power cut, is started before anything that may take long
// or cannot be had, such as an image without a network. A version that cannot be applied is no
// reason either to leave down what the device has.

// revive starts it, and reports whether it tried. What does not start is left to the steps of
// a plan, whose failure is reported.
func (p *pass) revive(ctx context.Context) (tried bool, failure error) {
	if p.target.verdict == plan.Leave {
		return false, nil
	}
	for _, s := range p.revivals() {
		if p.superseded() {
			break
		}
		tried = true
		if err := p.do(ctx, s); err != nil {
			p.log.Warn("what ran does not start yet", "deployment", p.ref.String(), "step", s.Name, "error", err)
			failure = cmp.Or(failure, err)
		}
	}
	return tried, failure
}

// reviveAndLook is revive, and looks at what there is now.
func (p *pass) reviveAndLook(ctx context.Context) (tried bool, err error) {
	if tried, _ = p.revive(ctx); tried {
		err = p.observe(ctx)
	}
	return tried, err
}

// reviveUntil starts what ends, as services do that crash, until do is done with something
// that may take an hour. It returns the error of do.
func (p *pass) reviveUntil(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() {
		defer func() {
			if reason := recover(); reason != nil { // as the queue does
				done <- fmt.Errorf("panic: %v", reason)
			}
		}()
		done <- do()
	}()
	pause := minRevivePause
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-timer.C:
		}
		err := p.observe(ctx)
		if err == nil {
			_, err = p.revive(ctx)
		}
		if pause = min(2*pause, maxRevivePause); err == nil {
			pause = minRevivePause
		}
		timer.Reset(pause)
	}
}

// revivals are the steps that start what ran by the body that was applied last, or else by
// the one that the manifest names. All that they need is on the device.
func (p *pass) revivals() []workload.Step {
	hash, digest := p.target.applied, p.target.appliedSecrets
	if hash == "" {
		hash, digest = p.target.entry.Hash, p.target.entry.SecretsDigest
	}
	body := p.store.Body(hash)
	if body == nil {
		return nil
	}
	driver, w, err := p.drivers.Parse(p.ref, body)
	if err == nil {
		w, err = p.withStored(w, digest)
	}
	if err != nil {
		return nil
	}
	for _, v := range p.views {
		if r, ok := v.Instance.(workload.Reviver); ok && v.driver.About().Name == driver.About().Name {
			return r.Revive(w)
		}
	}
	return nil
}

// withStored returns a workload with the contents that are on the disk.
func (p *pass) withStored(w workload.Workload, digest string) (with workload.Workload, err error) {
	contents := workload.Contents{Digest: digest}
	if len(w.Secrets()) > 0 {
		contents.Objects = p.store.Secrets(digest)
		if contents.Mark, err = p.store.Marks(); err != nil {
			return nil, err
		}
	}
	return w.WithSecrets(contents)
}

// incomplete reports whether the server has to be asked for what the manifest names.
func (p *pass) incomplete() bool {
	e := p.target.entry
	return p.target.verdict == plan.Apply && (!p.store.HasBody(e.Hash) || e.SecretsDigest != "" && !p.store.HasSecrets(e.SecretsDigest))
}

// planned is the plan to the workload. Where something has to be fetched for it, it is made
// once more from what was started first.
func (p *pass) planned(ctx context.Context, renewed bool) (workload.Plan, error) {
	todo, err := p.view().Plan(ctx, p.workload, renewed)
	if err != nil || !slices.ContainsFunc(todo.Steps, func(s workload.Step) bool { return s.Kind == workload.Fetch }) {
		return todo, err
	}
	if tried, err := p.reviveAndLook(ctx); err != nil || !tried {
		return todo, err
	}
	return p.view().Plan(ctx, p.workload, renewed)
}
