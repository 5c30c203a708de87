package score

// PullPolicy says when an image is pulled.
type PullPolicy string

// Values of PullPolicy.
const (
	// PullIfNotPresent: when it is not on the device.
	PullIfNotPresent PullPolicy = "IfNotPresent"
	// PullAlways: at each change of the Deployment and once an hour, if the registry has
	// another one under the name.
	PullAlways PullPolicy = "Always"
	// PullNever: it is brought to the device by other means.
	PullNever PullPolicy = "Never"
)

// PullSecret names a Secret of type kubernetes.io/dockerconfigjson in the namespace of the
// Deployment.
type PullSecret struct {
	// Name is that of the Secret.
	Name string `json:"name"`
}

func (s PullSecret) validate(at string) error { return checkSecretName(at+".name", s.Name) }
