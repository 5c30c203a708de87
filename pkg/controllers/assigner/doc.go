// Package assigner keeps an assignment.Table in step with the API and with bucket
// device-state, and carries its changes out: manifests for the device API, keys of
// bucket desired-state, nudges, and the status of each Deployment.
package assigner
