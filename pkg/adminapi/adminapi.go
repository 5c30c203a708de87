// Package adminapi is what the commands of fleet-server ask a running server
// for that is no object of the Kubernetes API: to replace authorities, to
// issue certificates, and about its clock. So one process alone writes the
// server's keys, whoever runs the command.
//
// Requests and replies are JSON over POST, below Path on the port of the API,
// for clients with all rights there. A request that fails is answered with a
// Failure.
package adminapi

import "time"

// Path is the path below which the server answers.
const Path = "/fleet/v1/"

const (
	pathRotate      = Path + "ca/rotate"
	pathPrune       = Path + "ca/prune"
	pathReader      = Path + "certificates/reader"
	pathClock       = Path + "clock"
	pathAcceptClock = Path + "clock/accept"
	pathGateway     = Path + "gateway"
)

// maxRequest is the length of the longest request in bytes.
const maxRequest = 4 << 10

// RotateRequest replaces the issuing authorities.
type RotateRequest struct {
	// Root replaces the root too.
	Root bool `json:"root"`
}

// RotateReply names what issues from now on.
type RotateReply struct {
	Authorities []string `json:"authorities"`
}

// PruneRequest forgets authorities that were replaced.
type PruneRequest struct {
	// Force forgets those too that something depends on.
	Force bool `json:"force"`
}

// PruneReply says what became of each authority that was replaced.
type PruneReply struct {
	Forgotten []string `json:"forgotten"`
	Kept      []Kept   `json:"kept"`
}

// Kept is an authority that is still trusted, and what needs it.
type Kept struct {
	Name    string   `json:"name"`
	Devices []string `json:"devices,omitempty"`
	Tokens  []string `json:"tokens,omitempty"`
	// Until is when the last kubeconfig expires that may need it.
	Until time.Time `json:"until,omitzero"`
}

// ReaderRequest asks for a certificate that may read the bus.
type ReaderRequest struct {
	// Name is who will hold it, for the log.
	Name string `json:"name"`
	// TTLSeconds is how long it is valid, at most a year.
	TTLSeconds int64 `json:"ttlSeconds"`
}

// ReaderReply is a certificate with its key. All but Server are PEM.
type ReaderReply struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	Roots       string `json:"roots"`
	// Server is the URL of the bus.
	Server string `json:"server"`
}

// ClockReply says what the server thinks of its clock.
type ClockReply struct {
	// Time is what the server goes by.
	Time time.Time `json:"time"`
	// Insane is why the wall clock cannot be right and what to do; empty when it
	// can.
	Insane string `json:"insane,omitempty"`
}

// GatewayReply says how new devices reach the server.
type GatewayReply struct {
	// URL is where they enroll, https://HOST:PORT.
	URL string `json:"url"`
	// Pin is the key of that address as curl's --pinnedpubkey takes it. It stays
	// when certificates are renewed.
	Pin string `json:"pin"`
	// Installer is whether the server has a release to install devices from.
	Installer bool `json:"installer"`
}

// Failure answers a request that could not be done.
type Failure struct {
	Message string `json:"message"`
}
