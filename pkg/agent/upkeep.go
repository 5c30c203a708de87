package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/agent/workload"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// upkeepTimeout bounds one round: a large image takes long to remove from a slow card.
	upkeepTimeout = 10 * time.Minute
	// verifyEvery is the time after which bodies and Secrets are read again: the disk may
	// have damaged them.
	verifyEvery = time.Hour
	// maxMissing is how many missing things are named.
	maxMissing = 3
)

// upkeep sees to it that what runs could start again without the server: it says what is
// missing for that, and lets drivers remove what nothing needs. It follows each look and
// each change.
type upkeep struct {
	drivers    workload.Drivers
	store      *store.Store
	desired    *desired
	conditions *conditions
	// device says what the device itself lacks for a restart; may be nil.
	device func() []string
	// refused says what the device does not allow its Deployments.
	refused func() []string
	again   chan struct{} // capacity 1
	log     *slog.Logger

	// known are the needs of bodies that are whole on the disk, and verified is when that
	// was last found out of all; both of the run alone.
	known    map[need]requirement
	verified time.Time
}

// requirement is what a driver needs for a body.
type requirement struct {
	// driver is nil when none takes the body, or the one that does needs nothing.
	driver workload.Keeper
	names  []string
}

func (u *upkeep) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.again:
			u.round(ctx)
		}
	}
}

// round looks once at what there is.
func (u *upkeep) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	u.showRefused()
	needs, before, intact := u.desired.needs()
	u.learn(needs, before)
	missing, err := u.missing(ctx, needs)
	if ctx.Err() != nil {
		return
	}
	if !intact {
		missing = append([]string{"the last manifest, which was damaged"}, missing...)
	}
	u.show(missing, err)
	if intact && err == nil {
		u.collect(ctx, needs, before)
	}
}

// learn finds out what bodies need that it does not know yet, and forgets those that
// nothing names any more.
func (u *upkeep) learn(needs []choice, before []need) {
	known := u.known
	if time.Since(u.verified) >= verifyEvery {
		known, u.verified = nil, time.Now()
	}
	u.known = map[need]requirement{}
	for _, n := range append(all(needs), before...) {
		r, there := known[n]
		if !there {
			r, there = u.read(n)
		}
		if there && u.store.HasBody(n.hash) && (n.secrets == "" || u.store.HasSecrets(n.secrets)) {
			u.known[n] = r
		}
	}
}

// all are the bodies of choices.
func all(needs []choice) (list []need) {
	for _, c := range needs {
		for _, n := range []need{c.named, c.applied} {
			if n.hash != "" {
				list = append(list, n)
			}
		}
	}
	return list
}

// read returns what a body needs, and false when body or Secrets are not whole.
func (u *upkeep) read(n need) (requirement, bool) {
	body := u.store.Body(n.hash)
	if body == nil || n.secrets != "" && u.store.Secrets(n.secrets) == nil {
		return requirement{}, false
	}
	driver, w, err := u.drivers.Parse(n.deployment, body)
	if err != nil {
		return requirement{}, true // it never runs, which its report says
	}
	keeper, ok := driver.(workload.Keeper)
	if !ok {
		return requirement{}, true
	}
	return requirement{driver: keeper, names: keeper.Needs(w)}, true
}

// missing lists what is not on the device of what is to run. What the manifest names may
// still be on its way: then what was applied last has to be there.
func (u *upkeep) missing(ctx context.Context, needs []choice) (missing []string, err error) {
	if u.device != nil {
		missing = slices.Clone(u.device())
	}
	looks := map[string][]string{} // what a driver lacks, by need
	for _, c := range needs {
		lacks, err := u.missingOf(ctx, c.named, looks)
		if err != nil {
			return missing, err
		}
		if len(lacks) > 0 && c.applied.hash != "" && c.applied != c.named {
			previous, err := u.missingOf(ctx, c.applied, looks)
			if err != nil {
				return missing, err
			}
			if len(previous) == 0 {
				continue
			}
		}
		for _, what := range lacks {
			missing = append(missing, what+" of "+c.named.deployment.String())
		}
	}
	return missing, nil
}

func (u *upkeep) missingOf(ctx context.Context, n need, looks map[string][]string) (missing []string, err error) {
	r, known := u.known[n]
	if !known {
		return []string{"the score or Secrets"}, nil
	}
	for _, name := range r.names {
		key := r.driver.About().Name + " " + name
		lacks, looked := looks[key]
		if !looked {
			if lacks, err = r.driver.Missing(ctx, []string{name}); err != nil {
				return nil, err
			}
			looks[key] = lacks
		}
		missing = append(missing, lacks...)
	}
	return missing, nil
}

// show sets the condition WouldSurviveReboot.
func (u *upkeep) show(missing []string, err error) {
	set := func(status wire.ConditionStatus, reason, message string) {
		u.conditions.set(wire.ConditionWouldSurviveReboot, status, reason, message)
	}
	switch {
	case err != nil && len(missing) == 0:
		u.log.Debug("what a restart needs is not known", "error", err)
		set(wire.ConditionUnknown, reasonNotLookedAt, "what is on the device cannot be looked at now")
	case len(missing) == 0:
		set(wire.ConditionTrue, reasonNothingMissing, "")
	default:
		set(wire.ConditionFalse, reasonMissing, "after a restart without a network the device would lack "+first(missing))
	}
}

// showRefused sets the condition ScoresAllowed.
func (u *upkeep) showRefused() {
	if refused := u.refused(); len(refused) > 0 {
		u.conditions.set(wire.ConditionScoresAllowed, wire.ConditionFalse, reasonNotAllowed, first(refused))
		return
	}
	u.conditions.set(wire.ConditionScoresAllowed, wire.ConditionTrue, reasonNothingRefused, "")
}

// first names the first of many things.
func first(list []string) string {
	list = slices.Compact(list)
	if len(list) <= maxMissing {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(list[:maxMissing], "; "), len(list)-maxMissing)
}

// collect lets drivers remove what they fetched and nothing needs: neither the manifest,
// nor the previous one, nor what runs. Where a body is not on the device, nobody knows
// what it needs.
func (u *upkeep) collect(ctx context.Context, needs []choice, before []need) {
	names := map[string]map[string]bool{}
	add := func(n need) (known bool) {
		r, known := u.known[n]
		if r.driver == nil {
			return known
		}
		of := r.driver.About().Name
		if names[of] == nil {
			names[of] = map[string]bool{}
		}
		for _, name := range r.names {
			names[of][name] = true
		}
		return known
	}
	for _, n := range all(needs) {
		if !add(n) {
			return
		}
	}
	for _, n := range before {
		add(n) // what was never fetched was never run
	}
	for _, d := range u.drivers {
		keeper, ok := d.(workload.Keeper)
		if !ok {
			continue
		}
		if err := keeper.Collect(ctx, slices.Sorted(maps.Keys(names[d.About().Name]))); err != nil {
			u.log.Debug("what nothing needs could not be removed", "driver", d.About().Name, "error", err)
		}
	}
}
