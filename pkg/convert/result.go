package convert

import "fleet.nationtech.io/fleet/pkg/score"

// Result is what a document becomes.
type Result struct {
	// Deployments in the order in which they are printed.
	Deployments []Deployment
	// ConfigMaps that they use, by name.
	ConfigMaps []ConfigMap
	// Losses in the order of the document.
	Losses []Loss
}

// Deployment is one Deployment of fleet.
type Deployment struct {
	// Name is an RFC 1123 label.
	Name string
	// Namespace is empty where the document gives none.
	Namespace string
	// NodeSelector are labels that devices need, or nil.
	NodeSelector map[string]string
	// Labels are those of the object, or nil.
	Labels map[string]string
	Score  score.PodmanV0
}

// ConfigMap has the content of files.
type ConfigMap struct {
	Name, Namespace string
	Data            map[string]string
}
