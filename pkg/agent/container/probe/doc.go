// Package probe runs the probes of containers: it finds out whether a service has
// started, whether it has to be restarted, and whether it is ready.
//
// A Prober decides when a probe is due and what its results amount to. A Checker makes
// one attempt: through the container runtime for commands, and through connections into
// the container for everything else. What the Prober finds out it tells, and it
// remembers nothing of it: package runs does, so that a restart of the agent makes no
// service unready and restarts none.
package probe
