// Package agent runs a device: it follows the manifest that the server issues,
// makes the device's containers what the manifest asks for, and reports what
// became of it.
//
// The agent is autonomous. Its last good manifest and the bodies that it names
// are on disk, and are applied before there is a network; a server that is
// away changes nothing on the device. Containers are not the agent's children:
// to stop, restart or upgrade the agent touches none of them.
//
// The parts, each in a file, and what they do:
//
//	desired     what the device should run: manifest and memory, on disk
//	reconciler  one pass for one Deployment: observe, plan, act, report
//	watcher     podman's events and a slow tick, turned into passes
//	syncer      snapshot requests
//	reporter    reports that the server has not acknowledged yet
//	informer    what the device says of itself
//	revocation  what becomes of a device that was thrown out; a Wiper takes the
//	            Agent's place when it has to be wiped
//
// The package and all below it import neither Kubernetes nor the podman
// bindings.
package agent
