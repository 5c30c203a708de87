// Package workload is the seam between the agent and what runs workloads: the
// interface Driver, and what the agent and a driver say to each other.
//
// The agent decides what should run, in which order and how often it is tried,
// and reports what became of it. A driver knows how: what a score means, what is
// on the device, which steps lead from one to the other. The agent knows drivers
// by the types of score that they take, and treats all alike. Containers are the
// first driver, see pkg/agent/container/driver.
//
// To add a driver is to write a package that implements Driver, to let it pass
// workloadtest.Conformance, and to name it where cmd/fleet-agent lists drivers.
// Capabilities, conditions and the removal of what it made follow from that.
//
// The package imports the contract and the standard library only, so that a
// driver links nothing of the agent.
package workload
