package helper

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"fleet.nationtech.io/fleet/pkg/helper/storage"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

// Socket is where the helper of the workloads' account listens for the agent.
const Socket = "/run/fleet-workload/helper.sock"

// network keeps messages apart.
const network = "unixpacket"

const (
	// maxRequest bounds a request in bytes, maxPaths the paths in it in number and in
	// bytes.
	maxRequest, maxPaths, maxPathBytes = 32 << 10, 64, 8 << 10
	// maxReply bounds a reply in bytes, maxTrail one that says what was seen: a way of ten
	// directories takes about one KiB.
	maxReply, maxTrail = 1 << 10, 64 << 10
	// maxText bounds a text in a message in bytes.
	maxText = 512
	// maxDial bounds how long sockets are waited for, maxLook how long a file system.
	maxDial, maxLook = time.Minute, 3 * time.Second
	// maxInspect bounds how long a storage is looked at, maxRepair how long its repair takes,
	// which may delete many files from a slow card.
	maxInspect, maxRepair = 2 * time.Minute, 15 * time.Minute
	// maxFlush bounds how long a slow card is waited for.
	maxFlush = 2 * time.Minute
	// handover is how long the two may take for a message.
	handover = 5 * time.Second
	// maxGroups bounds the groups that a reply names.
	maxGroups = 64
	// maxSockets bounds the sockets that come with a reply.
	maxSockets = 8
	// idDigits is the length of the id of a container.
	idDigits = 64
)

// request asks for sockets of the network of a container or, if it has paths, for what lies
// along them, for groups, or for what is damaged in podman's storage.
type request struct {
	// Container is its id, PID its first process.
	Container string `json:"container,omitempty"`
	PID       int    `json:"pid,omitempty"`
	// Sockets is how many sockets are wanted, of IPv6 if Six is set.
	Sockets int  `json:"sockets,omitempty"`
	Six     bool `json:"six,omitempty"`
	// Timeout is how long the answer is waited for.
	Timeout time.Duration `json:"timeout"`
	Paths   []string      `json:"paths,omitempty"`
	Storage verb          `json:"storage,omitempty"`
	// Groups asks for those of the account.
	Groups bool `json:"groups,omitempty"`
	// Names asks whether podman's server of names is lost.
	Names bool `json:"names,omitempty"`
	// Monitor is the id of a container whose monitor is to end.
	Monitor string `json:"monitor,omitempty"`
	// Mirror makes an address the mirror of Registries for podman.
	Mirror     string   `json:"mirror,omitempty"`
	Registries []string `json:"registries,omitempty"`
}

// verb is what to do with the storage.
type verb string

const (
	inspect verb = "inspect"
	repair  verb = "repair"
	flush   verb = "flush"
)

var errRequest = errors.New("the request is none")

func (r *request) validate() error {
	if r.Storage != "" {
		r.Timeout = min(max(r.Timeout, 0), maxRepair)
		if r.Storage != inspect && r.Storage != repair && r.Storage != flush {
			return errRequest
		}
		return nil
	}
	r.Timeout = min(max(r.Timeout, 0), maxDial)
	if r.Groups || r.Names {
		return nil
	}
	if r.Mirror != "" {
		return r.validateMirror()
	}
	if r.Monitor != "" {
		return validateID(r.Monitor)
	}
	if len(r.Paths) > 0 {
		if len(r.Paths) > maxPaths {
			return errRequest
		}
		return nil
	}
	if r.PID <= 1 || r.Sockets <= 0 || r.Sockets > maxSockets {
		return errRequest
	}
	return validateID(r.Container)
}

func validateID(id string) error {
	if _, err := hex.DecodeString(id); err != nil || len(id) != idDigits {
		return errRequest
	}
	return nil
}

// outcome says what came of a request.
type outcome string

const (
	// stocked: the sockets come with the reply.
	stocked outcome = "stocked"
	// seen: the reply says what lies along the paths, or the groups.
	seen outcome = "seen"
	// inspected: the reply says what is damaged in the storage, or what was repaired, or the
	// storage is on the disk.
	inspected outcome = "inspected"
	// failed: the helper could not try.
	failed outcome = "failed"
)

// reply answers a request.
type reply struct {
	Outcome outcome `json:"outcome"`
	// Text is why, for failed.
	Text string `json:"text,omitempty"`
	// Trail is what was seen.
	Trail trail.Trail `json:"trail,omitempty"`
	// Damages are what was found in the storage.
	Damages []storage.Damage `json:"damages,omitempty"`
	// Groups are those of the account.
	Groups []uint32 `json:"groups,omitempty"`
	// Changed: podman was told something new, or a monitor was ended.
	Changed bool `json:"changed,omitempty"`
	// Lost: podman's server of names has ended.
	Lost bool `json:"lost,omitempty"`
}

func answer(o outcome, err error) reply {
	if err == nil {
		return reply{Outcome: o}
	}
	return reply{Outcome: o, Text: fmt.Sprintf("%.*s", maxText, err.Error())}
}
