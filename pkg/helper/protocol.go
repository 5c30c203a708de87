package helper

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Socket is where the helper of the workloads' account listens for the agent.
const Socket = "/run/fleet-workload/helper.sock"

// network keeps messages apart.
const network = "unixpacket"

const (
	// maxMessage bounds a message in bytes.
	maxMessage = 1 << 10
	// maxText bounds a text in a message in bytes.
	maxText = 512
	// maxDial bounds how long a connection is waited for.
	maxDial = time.Minute
	// handover is how long the two may take for a message.
	handover = 5 * time.Second
	// idDigits is the length of the id of a container.
	idDigits = 64
)

// request asks for a connection to a port in a container.
type request struct {
	// Container is its id, PID its first process.
	Container string `json:"container"`
	PID       int    `json:"pid"`
	Port      uint16 `json:"port"`
	// Timeout is how long the connection is waited for.
	Timeout time.Duration `json:"timeout"`
}

var errRequest = errors.New("the request is none")

func (r *request) validate() error {
	if _, err := hex.DecodeString(r.Container); err != nil || len(r.Container) != idDigits || r.PID <= 1 || r.Port == 0 {
		return errRequest
	}
	r.Timeout = min(max(r.Timeout, 0), maxDial)
	return nil
}

// outcome says what came of a request.
type outcome string

const (
	// connected: the connection comes with the reply.
	connected outcome = "connected"
	// refused: nothing takes connections there.
	refused outcome = "refused"
	// failed: the helper could not try.
	failed outcome = "failed"
	// moved: the helper went to where it can enter the container. Ask again.
	moved outcome = "moved"
)

// reply answers a request.
type reply struct {
	Outcome outcome `json:"outcome"`
	// Text is why, for refused and failed.
	Text string `json:"text,omitempty"`
}

func answer(o outcome, err error) reply {
	if err == nil {
		return reply{Outcome: o}
	}
	return reply{Outcome: o, Text: fmt.Sprintf("%.*s", maxText, err.Error())}
}
