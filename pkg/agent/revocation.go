package agent

import (
	"context"
	"log/slog"
	"sync"

	"fleet.nationtech.io/fleet/pkg/agent/queue"
	"fleet.nationtech.io/fleet/pkg/agent/store"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// revocation is what becomes of a device that its server revoked. Only
// a new enrollment ends it.
type revocation struct {
	link               Link
	store              *store.Store
	device, enrollment string
	desired            *desired
	queue              *queue.Queue[wire.DeploymentRef]
	// leave ends the agent, so that the device is wiped.
	leave func()
	log   *slog.Logger

	mu     sync.Mutex // guards policy
	policy wire.Revocation
}

// restore takes up what an earlier run of the agent was told.
func (r *revocation) restore() {
	saved, ok := r.store.Revocation()
	if !ok {
		return
	}
	if saved.Enrollment != r.enrollment {
		if err := r.store.ForgetRevocation(); err != nil {
			r.log.Warn("the revocation of an earlier enrollment stays", "error", err)
		}
		return
	}
	r.policy = saved.Policy
	r.link.Rarely()
}

// run acts on what the server says just before it ends the connection.
func (r *revocation) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case policy := <-r.link.Revocations():
			r.revoke(policy)
		}
	}
}

// revoke does what a policy asks for. A device that was told to be wiped cannot
// be told otherwise.
func (r *revocation) revoke(policy wire.Revocation) {
	if policy != wire.RevocationStop && policy != wire.RevocationWipe {
		policy = wire.RevocationKeep
	}
	r.mu.Lock()
	same := r.policy == policy || r.policy == wire.RevocationWipe
	r.mu.Unlock()
	if same {
		return
	}
	if err := r.store.SaveRevocation(store.Revocation{Enrollment: r.enrollment, Device: r.device, Policy: policy}); err != nil {
		r.log.Error("the revocation is not written down", "policy", policy, "error", err)
		if policy == wire.RevocationWipe {
			return // the server says it again; a wipe that is cut off must be finished
		}
	}
	r.mu.Lock()
	r.policy = policy
	r.mu.Unlock()
	r.link.Rarely()
	r.log.Warn("this device was revoked", "policy", policy)
	if policy == wire.RevocationWipe {
		r.leave()
		return
	}
	for _, ref := range r.desired.refs() {
		r.queue.Now(ref)
	}
}

func (r *revocation) present() wire.Revocation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.policy
}

// halted reports whether nothing may run.
func (r *revocation) halted() bool {
	return r.present() == wire.RevocationStop || r.present() == wire.RevocationWipe
}

const letBackIn = "to let it back in, delete its Device, create a token, and run fleet-agent enroll --force"

// standing says what is wrong between the device and its fleet.
func (r *revocation) standing() string {
	switch r.present() {
	case "":
		return ""
	case wire.RevocationStop:
		return "this device was revoked, and its containers are stopped; " + letBackIn
	case wire.RevocationWipe:
		return "this device was revoked, and is being wiped"
	default:
		return "this device was revoked: it keeps what it runs, and gets nothing new; " + letBackIn
	}
}
