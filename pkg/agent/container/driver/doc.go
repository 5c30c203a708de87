// Package driver runs workloads as containers: it is the workload.Driver of
// scores that container/interpret knows.
//
// It decides with the pure package container/plan, acts through a
// container.Runtime, and adds what Deployments of one device have in common:
// host ports, directories that they mount, the credentials of the fleet's image
// registry.
package driver
