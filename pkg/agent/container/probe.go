package container

import "time"

// Probes find out how a service is; each may be nil.
type Probes struct {
	// Startup says when the service has started: the others wait until then.
	Startup *Probe
	// Liveness says when the service has to be restarted.
	Liveness *Probe
	// Readiness says whether the service is ready.
	Readiness *Probe
	// PostStart is made once after each start, before all others.
	PostStart *Probe
}

// None reports whether there is nothing to do.
func (p Probes) None() bool { return p == Probes{} }

// Probe is one way to find out how a service is. Exactly one of Exec, HTTP, TCP and
// GRPC is set.
type Probe struct {
	// Exec is a command to run in the container; code 0 is success.
	Exec []string `json:"exec,omitempty"`
	// HTTP is a page to ask for; a status from 200 to 399 is success.
	HTTP *HTTPProbe `json:"-"`
	// TCP is a port to connect to.
	TCP uint16 `json:"-"`
	// GRPC is a health service to ask; SERVING is success.
	GRPC *GRPCProbe `json:"-"`

	// Delay is the time from the start of the container to the first attempt, Period
	// that between two attempts, Timeout how long one may take.
	Delay   time.Duration `json:"delay,omitempty"`
	Period  time.Duration `json:"period"`
	Timeout time.Duration `json:"timeout"`
	// Until is the time between two attempts before the first success; 0 for Period.
	Until time.Duration `json:"until,omitempty"`
	// Successes and Failures are how often in a row an attempt has to succeed or fail
	// until that counts. For 0 successes once is enough.
	Successes int `json:"-"`
	Failures  int `json:"failures"`
}

// HTTPProbe is a page in the container.
type HTTPProbe struct {
	Port uint16
	// TLS: the page is asked for over TLS, and its certificate is not verified.
	TLS  bool
	Path string
	// Header has names and values by turns.
	Header []string
}

// GRPCProbe is a health service in the container.
type GRPCProbe struct {
	Port    uint16
	Service string
}

// Health is what probes found out about the last run of a container.
type Health struct {
	// Hooked: what is done after the start was done.
	Hooked bool `json:"hooked,omitempty"`
	// Started: the startup probe succeeded.
	Started bool `json:"started,omitempty"`
	// Ready: the readiness probe succeeds.
	Ready bool `json:"ready,omitempty"`
	// Why says, in one line, why a probe does not succeed at present; empty while none
	// failed.
	Why string `json:"why,omitempty"`
	// Unwell says, in one line, why the container has to be restarted; empty for well.
	Unwell string `json:"unwell,omitempty"`
}

// Ready reports whether a container that runs is ready, as far as its probes say.
func (c *Container) Ready(p Probes) bool {
	return (p.PostStart == nil || c.Health.Hooked) && (p.Startup == nil || c.Health.Started) && (p.Readiness == nil || c.Health.Ready) && c.Health.Unwell == ""
}

// ProbesOf are the probes of a container: those of its score or, when that has none, the
// health check of its image.
func (c *Container) ProbesOf(p Probes) Probes {
	if p.Startup == nil && p.Liveness == nil && p.Readiness == nil {
		p.Readiness = c.HealthCheck
	}
	return p
}

// Execution is what came of a command in a container.
type Execution struct {
	// Session names it to the runtime.
	Session string
	// Running: it did not end in time, and goes on.
	Running bool
	// Code is how it ended, Output the beginning of what it wrote.
	Code   int
	Output []byte
}
