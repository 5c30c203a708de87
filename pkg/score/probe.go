package score

import (
	"regexp"
	"strings"
	"time"
)

// Limits of probes.
const (
	maxProbeSeconds   = 24 * 60 * 60
	maxProbeTimeout   = 60 * 60
	maxProbeThreshold = 1000
	maxProbeText      = 2048
)

// Defaults of probes, as in a Kubernetes Pod.
const (
	defaultProbePeriod   = 10 * time.Second
	defaultProbeTimeout  = time.Second
	defaultProbeFailures = 3
)

// Schemes of an HTTPGet.
const (
	SchemeHTTP  = "HTTP"
	SchemeHTTPS = "HTTPS"
)

// Probe finds out how a service is. It is named and meant as in a Kubernetes Pod.
// Exactly one of Exec, HTTPGet, TCPSocket and GRPC is set.
type Probe struct {
	// Exec runs a command in the container; exit code 0 is success.
	Exec *ExecProbe `json:"exec,omitempty"`
	// HTTPGet asks for a page; a status from 200 to 399 is success.
	HTTPGet *HTTPProbe `json:"httpGet,omitempty"`
	// TCPSocket connects; that is success.
	TCPSocket *TCPProbe `json:"tcpSocket,omitempty"`
	// GRPC calls grpc.health.v1.Health/Check; SERVING is success.
	GRPC *GRPCProbe `json:"grpc,omitempty"`
	// InitialDelaySeconds is the time from the start of the container to the first
	// attempt; 0 when it is nil.
	InitialDelaySeconds *int `json:"initialDelaySeconds,omitempty"`
	// PeriodSeconds is the time between two attempts; 10 when it is nil.
	PeriodSeconds *int `json:"periodSeconds,omitempty"`
	// TimeoutSeconds is how long an attempt may take; 1 when it is nil.
	TimeoutSeconds *int `json:"timeoutSeconds,omitempty"`
	// SuccessThreshold is how often in a row an attempt has to succeed after it failed;
	// 1 when it is nil, and always for startup and liveness.
	SuccessThreshold *int `json:"successThreshold,omitempty"`
	// FailureThreshold is how often in a row an attempt has to fail; 3 when it is nil.
	FailureThreshold *int `json:"failureThreshold,omitempty"`
}

// ExecProbe is a command that is run in the container, without a shell.
type ExecProbe struct {
	// Command is a program and its arguments.
	Command []string `json:"command" template:"text"`
}

// HTTPProbe is a page of the service. Certificates are not verified, and redirects
// count as success.
type HTTPProbe struct {
	// Path is "/" when it is empty.
	Path string `json:"path,omitempty" template:"path"`
	// Port in the container.
	Port int `json:"port"`
	// Scheme is HTTP (the default) or HTTPS.
	Scheme string `json:"scheme,omitempty"`
	// HTTPHeaders are sent with the request; Host is among those that may be given.
	HTTPHeaders []HTTPHeader `json:"httpHeaders,omitempty"`
}

// HTTPHeader is one header of a request.
type HTTPHeader struct {
	// Name of the header.
	Name string `json:"name"`
	// Value of the header.
	Value string `json:"value" template:"text"`
}

// TCPProbe is a port that the service listens on.
type TCPProbe struct {
	// Port in the container.
	Port int `json:"port"`
}

// GRPCProbe is a port at which the service answers the health protocol of gRPC, in
// plain text.
type GRPCProbe struct {
	// Port in the container.
	Port int `json:"port"`
	// Service is what to ask about; empty for the server as a whole.
	Service string `json:"service,omitempty"`
}

// Delay is the time from the start of the container to the first attempt.
func (p *Probe) Delay() time.Duration { return seconds(p.InitialDelaySeconds, 0) }

// Period is the time between two attempts.
func (p *Probe) Period() time.Duration { return seconds(p.PeriodSeconds, defaultProbePeriod) }

// Timeout is how long an attempt may take.
func (p *Probe) Timeout() time.Duration { return seconds(p.TimeoutSeconds, defaultProbeTimeout) }

// Successes is how often in a row an attempt has to succeed.
func (p *Probe) Successes() int { return orDefault(p.SuccessThreshold, 1) }

// Failures is how often in a row an attempt has to fail.
func (p *Probe) Failures() int { return orDefault(p.FailureThreshold, defaultProbeFailures) }

func seconds(n *int, otherwise time.Duration) time.Duration {
	if n == nil {
		return otherwise
	}
	return time.Duration(*n) * time.Second
}

func orDefault(n *int, otherwise int) int {
	if n == nil {
		return otherwise
	}
	return *n
}

// validateProbes checks the probes of a service.
func (s *Service) validateProbes(at string) error {
	once := func(p *Probe, at string) error {
		if p == nil || p.Successes() == 1 {
			return nil
		}
		return fieldErrorf(at+".successThreshold", "%d is not 1: only a readinessProbe may ask for more", p.Successes())
	}
	startup, liveness, readiness := at+".startupProbe", at+".livenessProbe", at+".readinessProbe"
	return all(
		s.StartupProbe.validate(startup), once(s.StartupProbe, startup),
		s.LivenessProbe.validate(liveness), once(s.LivenessProbe, liveness),
		s.ReadinessProbe.validate(readiness),
	)
}

// validate checks a probe, which may be nil.
func (p *Probe) validate(at string) error {
	if p == nil {
		return nil
	}
	return all(
		p.validateAction(at),
		checkWithin(at+".initialDelaySeconds", p.InitialDelaySeconds, 0, maxProbeSeconds),
		checkWithin(at+".periodSeconds", p.PeriodSeconds, 1, maxProbeSeconds),
		checkWithin(at+".timeoutSeconds", p.TimeoutSeconds, 1, maxProbeTimeout),
		checkWithin(at+".successThreshold", p.SuccessThreshold, 1, maxProbeThreshold),
		checkWithin(at+".failureThreshold", p.FailureThreshold, 1, maxProbeThreshold),
	)
}

func (p *Probe) validateAction(at string) error {
	given := 0
	for _, there := range []bool{p.Exec != nil, p.HTTPGet != nil, p.TCPSocket != nil, p.GRPC != nil} {
		if there {
			given++
		}
	}
	switch {
	case given != 1:
		return fieldErrorf(at, "exactly one of exec, httpGet, tcpSocket and grpc is needed")
	case p.Exec != nil:
		return p.Exec.validate(at + ".exec")
	case p.HTTPGet != nil:
		return p.HTTPGet.validate(at + ".httpGet")
	case p.TCPSocket != nil:
		return checkPort(at+".tcpSocket.port", p.TCPSocket.Port)
	}
	return all(checkPort(at+".grpc.port", p.GRPC.Port), checkVisible(at+".grpc.service", p.GRPC.Service))
}

func (e *ExecProbe) validate(at string) error {
	if len(e.Command) == 0 || e.Command[0] == "" {
		return fieldErrorf(at+".command", "a command is needed")
	}
	return checkStrings(at+".command", e.Command)
}

// headerPattern is a token of RFC 9110.
var headerPattern = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}$")

func (h *HTTPProbe) validate(at string) error {
	var path error
	if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
		path = fieldErrorf(at+".path", "%.80q does not begin with a slash", h.Path)
	}
	return all(
		checkOneOf(at+".scheme", h.Scheme, SchemeHTTP, SchemeHTTPS),
		path,
		checkPort(at+".port", h.Port),
		checkVisible(at+".path", h.Path),
		validateEach(at+".httpHeaders", h.HTTPHeaders, HTTPHeader.validate),
	)
}

func (h HTTPHeader) validate(at string) error {
	var name error
	if !headerPattern.MatchString(h.Name) {
		name = fieldErrorf(at+".name", "%.80q is not the name of a header", h.Name)
	}
	return all(name, checkVisible(at+".value", h.Value))
}
