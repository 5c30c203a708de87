// Package container is the seam between the agent and what runs containers:
// plain types and the Runtime interface.
//
// The agent plans with these types and package podman implements Runtime, so
// that agent code and its tests do not link the podman bindings, which are the
// larger part of the agent's binary. It imports wire and the standard library
// only; its subpackage containertest has a fake and the conformance suite that
// every Runtime passes.
package container
