package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"fleet.nationtech.io/fleet/pkg/dirty"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// Bounds of the pause after a report that could not be sent.
	minReportPause = time.Second
	maxReportPause = 30 * time.Second
	// reportEvery is the least time between two rounds of reports. Of what changes several
	// times meanwhile the last state is sent.
	reportEvery = time.Second
)

// reporter holds the reports that the device stands by, and sends those that
// the server has not acknowledged.
type reporter struct {
	link Link
	// forget is called when the server knows that a Deployment is gone.
	forget func(wire.DeploymentRef)
	// stale is called when another session of the device took over.
	stale func()
	log   *slog.Logger
	// waiting are the Deployments whose report the server has not acknowledged.
	// The zero reference stands for the info.
	waiting *dirty.Set[wire.DeploymentRef]

	mu     sync.Mutex // guards what follows
	info   []byte
	byRef  map[wire.DeploymentRef]*report
	paused bool // after a failure, until the pause ends or the server answers
}

// maxReports bounds the reports that are kept. Only a podman that invents
// Deployments while there is no connection gets there.
const maxReports = 4 * wire.MaxEntries

type report struct {
	raw   []byte
	state wire.DeploymentState
}

func newReporter(link Link, forget func(wire.DeploymentRef), log *slog.Logger) *reporter {
	return &reporter{link: link, forget: forget, log: log, waiting: dirty.NewSet[wire.DeploymentRef](), byRef: map[wire.DeploymentRef]*report{}}
}

// setInfo replaces what the device says of itself.
func (r *reporter) setInfo(raw []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !bytes.Equal(raw, r.info) {
		r.info = raw
		r.waiting.Add(wire.DeploymentRef{})
	}
}

// gone says that a Deployment is not on the device any more, if it was reported.
// The report is dropped once the server has it.
func (r *reporter) gone(ref wire.DeploymentRef) {
	if last, told := r.last(ref); told && last.Phase != wire.PhaseRemoved {
		r.set(wire.DeploymentState{DeploymentRef: ref, Phase: wire.PhaseRemoved, LastEventAt: time.Now().UTC()})
	}
}

// set replaces the report about a Deployment.
func (r *reporter) set(s wire.DeploymentState) {
	raw, err := json.Marshal(s)
	if err != nil {
		r.log.Error("encoding a report failed", "deployment", s.DeploymentRef, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.byRef[s.DeploymentRef]
	if ok && bytes.Equal(raw, old.raw) || !ok && len(r.byRef) >= maxReports {
		return
	}
	r.byRef[s.DeploymentRef] = &report{raw: raw, state: s}
	r.waiting.Add(s.DeploymentRef)
}

// last returns the report about a Deployment.
func (r *reporter) last(ref wire.DeploymentRef) (wire.DeploymentState, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rep, ok := r.byRef[ref]; ok {
		return rep.state, true
	}
	return wire.DeploymentState{}, false
}

// hashes returns the hashes that tell the server whether it has everything.
// What is being removed is left out: the server forgets it.
func (r *reporter) hashes() (info, states string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	digests := make(map[wire.DeploymentRef]wire.Digest, len(r.byRef))
	for ref, rep := range r.byRef {
		if rep.state.Phase != wire.PhaseRemoved {
			digests[ref] = wire.Sum(rep.raw)
		}
	}
	return wire.Sum(r.info).String(), wire.StateHash(digests)
}

// resend sends again what the server wants, and at once what it lacks.
func (r *reporter) resend(wants []wire.Want) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = false
	if slices.Contains(wants, wire.WantInfo) {
		r.waiting.Add(wire.DeploymentRef{})
	}
	if slices.Contains(wants, wire.WantState) {
		r.waiting.Add(slices.Collect(maps.Keys(r.byRef))...)
	}
	r.waiting.Signal()
}

// states lists the reports by reference.
func (r *reporter) states() []wire.DeploymentState {
	r.mu.Lock()
	defer r.mu.Unlock()
	states := make([]wire.DeploymentState, 0, len(r.byRef))
	for _, ref := range slices.SortedFunc(maps.Keys(r.byRef), wire.DeploymentRef.Compare) {
		states = append(states, r.byRef[ref].state)
	}
	return states
}

// run sends until ctx ends: at once what comes after a while of silence, and together what
// follows within reportEvery.
func (r *reporter) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := minReportPause
	var next time.Time // nothing is sent before
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			r.setPaused(false)
		case <-r.waiting.Wake():
		}
		if r.isPaused() {
			continue
		}
		if wait := time.Until(next); wait > 0 {
			timer.Reset(wait)
			continue
		}
		began := time.Now()
		sent, err := r.flush(ctx)
		if sent {
			next = began.Add(reportEvery)
		}
		if err != nil {
			r.log.Debug("reports wait", "pause", pause, "error", err)
			r.setPaused(true)
			if isRefusal(err, wire.RefusedQuarantined) {
				continue // until the server answers a snapshot request
			}
			if isRefusal(err, wire.RefusedSession) {
				r.stale()
			}
			timer.Reset(pause)
			pause = min(2*pause, maxReportPause)
			continue
		}
		pause = minReportPause
	}
}

func (r *reporter) setPaused(paused bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = paused
}

func (r *reporter) isPaused() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.paused
}

// flush sends everything that waits, the info first, and reports whether there was anything.
// The first error of the transport ends it.
func (r *reporter) flush(ctx context.Context) (sent bool, err error) {
	refs := r.waiting.Take()
	slices.SortFunc(refs, wire.DeploymentRef.Compare)
	for i, ref := range refs {
		if err := r.send(ctx, ref); err != nil {
			r.waiting.Return(refs[i:]...)
			return true, err
		}
	}
	return len(refs) > 0, nil
}

func (r *reporter) send(ctx context.Context, ref wire.DeploymentRef) error {
	r.mu.Lock()
	info, rep := r.info, r.byRef[ref]
	r.mu.Unlock()
	switch {
	case ref == wire.DeploymentRef{}:
		if info == nil {
			return nil // not gathered yet
		}
		return r.settle(r.link.SendInfo(ctx, info))
	case rep == nil:
		return nil // gone, and the server knows it
	}
	if err := r.settle(r.link.SendState(ctx, rep.raw)); err != nil {
		return err
	}
	if rep.state.Phase == wire.PhaseRemoved {
		r.drop(ref, rep)
	}
	return nil
}

// settle makes a refusal that will never change into success: to send the same
// bytes again is useless.
func (r *reporter) settle(err error) error {
	refusal, ok := errors.AsType[*wire.Refusal](err)
	if ok && refusal.Code == wire.RefusedBadRequest || errors.Is(err, wire.ErrPayload) {
		r.log.Error("the server refuses a report", "error", err)
		return nil
	}
	return err
}

// drop forgets a Deployment that is gone, unless there is a later report. The
// report is kept until the Deployment is forgotten, so that a pass which is still
// about it makes no other.
func (r *reporter) drop(ref wire.DeploymentRef, rep *report) {
	r.mu.Lock()
	last := r.byRef[ref] == rep
	r.mu.Unlock()
	if !last {
		return
	}
	r.forget(ref)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byRef[ref] == rep {
		delete(r.byRef, ref)
	}
}
