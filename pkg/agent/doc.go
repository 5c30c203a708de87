// Package agent runs a device: it follows the manifest that the server issues,
// makes what runs on the device what the manifest asks for, and reports what
// became of it.
//
// The agent is autonomous. Its last good manifest and the bodies that it names
// are on disk, and are applied before there is a network; a server that is
// away changes nothing on the device. Workloads are not the agent's children:
// to stop, restart or upgrade the agent touches none of them. What they are is up
// to the drivers, see package workload.
//
// The parts, each in a file, and what they do:
//
//	desired     what the device should run: manifest and memory, on disk
//	reconciler  one pass for one Deployment: observe, plan, act, report
//	views       what the drivers see of the Deployment of a pass
//	steps       the steps of a pass: how many at a time, for how long
//	watcher     the drivers' events and a slow tick, turned into passes
//	upkeep      what a restart without the server needs, and what nothing needs
//	syncer      snapshot requests
//	reporter    reports that the server has not acknowledged yet
//	informer    what the device says of itself
//	revocation  what becomes of a revoked device; a Wiper takes the
//	            Agent's place when it has to be wiped
//
// The package knows drivers by workload.Driver only; which ones there are is up to
// who makes an Agent. It and all below it import neither Kubernetes nor the podman
// bindings.
package agent
