package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/agent/queue"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	// Bounds of the pause after a snapshot request that failed.
	minSyncPause = time.Second
	maxSyncPause = 5 * time.Minute
	// snapshotJitter is how far snapshotInterval varies, up and down.
	snapshotJitter = 0.2
	// maxServers bounds the servers that a manifest names.
	maxServers = 16
	// A gateway that nudges all the time is followed this many times at once, and
	// then once in syncPause: each answer may write to a card that wears out.
	syncBurst = 20
	syncPause = time.Second
)

// errQuarantined: the server takes the device for a copy of another.
var errQuarantined = errors.New("this device looks like a copy of another that has its identity")

// syncer asks the server for the manifest.
type syncer struct {
	link       Link
	device     string
	hardwareID string
	// capabilities is what this agent can do.
	capabilities []string
	enrollment   string
	store        *store.Store
	desired      *desired
	reporter     *reporter
	conditions   *conditions
	queue        *queue.Queue[wire.DeploymentRef]
	// servers are those of the configuration.
	servers  []string
	interval time.Duration
	// again asks for a snapshot at once.
	again chan struct{}
	// stale asks for one because another session took over from this.
	stale chan struct{}
	log   *slog.Logger

	mu       sync.Mutex // guards what follows
	answered time.Time
	err      error
	// quarantine is the last errQuarantined since which nothing was answered.
	quarantine error
}

// run asks when there is a connection, when the server nudges, when somebody
// asks, and at intervals. The link subscribed to nudges before it connected,
// so nothing is missed between the two.
func (s *syncer) run(ctx context.Context) {
	timer := time.NewTimer(s.interval)
	defer timer.Stop()
	pace := rate.NewLimiter(rate.Every(syncPause), syncBurst)
	var failures, takeovers int
	var asked time.Time
	behind := false // another session took over since the last request
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.stale:
			behind = true
			// Two devices that are one another's copies must not chase each other.
			if wait := pauseAfter(takeovers) - time.Since(asked); wait > 0 {
				timer.Reset(wait)
				continue
			}
		case <-s.link.Connected():
			s.log.Debug("asking for the manifest", "cause", "connected")
			s.retryBodies()
		case <-s.link.Nudges():
			s.log.Debug("asking for the manifest", "cause", "nudge")
		case <-s.again:
			s.log.Debug("asking for the manifest", "cause", "asked")
		case <-timer.C:
			s.log.Debug("asking for the manifest", "cause", "timer")
		}
		if takeovers++; !behind {
			takeovers = 0
		}
		if pace.Wait(ctx) != nil {
			return // ctx ended
		}
		asked, behind = time.Now(), false
		next, err := s.sync(ctx)
		if errors.Is(err, errQuarantined) {
			s.log.Warn("the server sends nothing new", "error", err)
			next = jitter(s.interval)
		} else if err != nil {
			s.log.Warn("no manifest from the server", "error", err)
			next = pauseAfter(failures)
			failures++
		} else {
			failures = 0
		}
		s.note(err)
		timer.Reset(next)
	}
}

// pauseAfter doubles with each failure and loses up to half of itself.
func pauseAfter(failures int) time.Duration {
	const doublings = 9 // 1 s doubled 9 times is over 5 min
	pause := min(maxSyncPause, minSyncPause<<min(failures, doublings))
	return pause - rand.N(pause/2)
}

func (s *syncer) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	switch {
	case err == nil:
		s.answered, s.quarantine = time.Now().UTC(), nil
	case errors.Is(err, errQuarantined):
		s.quarantine = err
	}
}

// standing says what is wrong between the device and its fleet as a whole.
func (s *syncer) standing() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quarantine == nil {
		return ""
	}
	return s.quarantine.Error()
}

// last returns when the server last answered, and the error since.
func (s *syncer) last() (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered, s.err
}

// sync asks once and acts on the answer. It returns when to ask again.
func (s *syncer) sync(ctx context.Context) (time.Duration, error) {
	infoHash, stateHash := s.reporter.hashes()
	reply, err := s.link.Snapshot(ctx, wire.SnapshotRequest{
		Have: s.desired.version(), InfoHash: infoHash, StateHash: stateHash, Nonce: s.store.Nonce(s.enrollment), HardwareID: s.hardwareID,
		Capabilities: s.capabilities,
	})
	if reply != nil && reply.Nonce != "" {
		if err := s.store.SaveNonce(s.enrollment, reply.Nonce); err != nil {
			return 0, fmt.Errorf("keeping the server's nonce: %w", err)
		}
	}
	if err != nil {
		return 0, s.refused(err)
	}
	s.reporter.resend(reply.Want)
	switch reply.Status {
	case wire.SnapshotRetryLater:
		return bounded(reply.RetryAfterSeconds), nil
	case wire.SnapshotManifest:
		if err := s.accept(reply.Manifest); err != nil {
			return 0, err
		}
	case wire.SnapshotNotModified:
		if err := s.desired.current(); err != nil {
			return 0, fmt.Errorf("writing the manifest again: %w", err)
		}
		s.showHeld()
	}
	return jitter(s.interval), nil
}

// refused makes of an error what it means for the device.
func (s *syncer) refused(err error) error {
	if errors.Is(err, wire.ErrManifest) {
		s.hold(reasonInvalidManifest, err)
	}
	if isRefusal(err, wire.RefusedQuarantined) {
		return fmt.Errorf("%w: what runs goes on, and nothing new comes; an operator must decide: fleet-server device accept %s", errQuarantined, s.device)
	}
	return err
}

// isRefusal reports whether the server refused for this reason.
func isRefusal(err error, code wire.RefusalCode) bool {
	refusal, ok := errors.AsType[*wire.Refusal](err)
	return ok && refusal.Code == code
}

func (s *syncer) accept(m *wire.Manifest) error {
	changed, err := s.desired.accept(m)
	if errors.Is(err, plan.ErrOlder) {
		s.hold(reasonOlderManifest, err)
		return err
	}
	if err != nil {
		return fmt.Errorf("accepting manifest %v: %w", m.Version, err)
	}
	if len(changed) > 0 {
		s.log.Info("manifest accepted", "version", m.Version.String(), "entries", len(m.Entries))
	}
	s.follow(m.Servers)
	s.showHeld()
	for _, ref := range changed {
		s.queue.Now(ref)
	}
	return nil
}

// retryBodies runs what could not be fetched without a connection.
func (s *syncer) retryBodies() {
	for _, state := range s.reporter.states() {
		if state.Phase == wire.PhasePending {
			s.queue.Now(state.DeploymentRef)
		}
	}
}

// follow lets the link try the servers of the manifest beside the configured ones.
func (s *syncer) follow(servers []string) {
	all := slices.Clone(s.servers)
	for _, u := range servers[:min(len(servers), maxServers)] {
		if strings.HasPrefix(u, "tls://") && !slices.Contains(all, u) {
			all = append(all, u)
		}
	}
	if err := s.link.SetServers(all); err != nil {
		s.log.Warn("the servers of the manifest are not used", "error", err)
	}
}

func (s *syncer) hold(reason string, err error) {
	s.conditions.set(wire.ConditionManifestHeld, wire.ConditionTrue, reason, err.Error())
}

// showHeld sets the condition ManifestHeld for omissions that wait, and for a manifest
// that was lost.
func (s *syncer) showHeld() {
	if s.desired.damaged() {
		s.conditions.set(wire.ConditionManifestHeld, wire.ConditionTrue, reasonDamagedManifest,
			"manifest.json was damaged on the disk: nothing is removed, and what runs goes on as it was last known, until the server sends the manifest again")
		return
	}
	held := s.desired.held()
	if len(held) == 0 {
		s.conditions.set(wire.ConditionManifestHeld, wire.ConditionFalse, reasonCurrent, "")
		return
	}
	names := make([]string, len(held))
	for i, ref := range held {
		names[i] = ref.String()
	}
	s.conditions.set(wire.ConditionManifestHeld, wire.ConditionTrue, reasonOmissionsHeld,
		fmt.Sprintf("run fleet-agent confirm-epoch on the device to remove %d Deployments that the restored server does not name: %s", len(held), strings.Join(names, ", ")))
}

func bounded(seconds int) time.Duration {
	return min(max(time.Duration(seconds)*time.Second, minSyncPause), maxSyncPause)
}

// jitter varies an interval, so that a fleet does not ask in step.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + snapshotJitter*(2*rand.Float64()-1)))
}
