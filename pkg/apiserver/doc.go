// Package apiserver is a Kubernetes-compatible API server for a single
// machine: any CustomResourceDefinition, and the built-in kinds that a small
// site needs (namespaces, secrets, configmaps, events, leases, revisions), on the storage
// of package datastore. Who asks is told what they may do, and package collector
// deletes what belongs to owners that are gone.
//
// It is k8s.io/apiextensions-apiserver as the only server, with the built-in
// groups installed into it; k8s.io/kubernetes and kube-aggregator are not
// linked. Its own clients reach it in memory; others by a listener that bounds
// their connections, the memory of their requests and the size of what they
// write. It knows nothing of fleet: the definitions to serve come in with
// Config.
package apiserver
