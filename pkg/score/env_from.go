package score

// EnvFrom adds a variable for each key of a ConfigMap or a Secret in the namespace of the
// Deployment.
type EnvFrom struct {
	// Prefix comes before each key.
	Prefix string `json:"prefix,omitempty"`
	// ConfigMapRef or SecretRef is given, not both.
	ConfigMapRef ObjectRef `json:"configMapRef,omitzero"`
	SecretRef    ObjectRef `json:"secretRef,omitzero"`
}

// ObjectRef names an object in the namespace of the Deployment.
type ObjectRef struct {
	// Name is that of the object.
	Name string `json:"name"`
}

func (e EnvFrom) validate(at string) error {
	var found mistakes
	if e.Prefix != "" {
		found.add(checkEnvName(at+".prefix", e.Prefix))
	}
	config, secret := e.ConfigMapRef != (ObjectRef{}), e.SecretRef != (ObjectRef{})
	switch {
	case config == secret:
		found.add(fieldErrorf(at, "exactly one of configMapRef and secretRef is needed, with the name of the object"))
	case config:
		found.add(checkConfigMapName(at+".configMapRef.name", e.ConfigMapRef.Name))
	default:
		found.add(checkSecretName(at+".secretRef.name", e.SecretRef.Name))
	}
	return found.err()
}

// CheckEnvName reports whether a name is that of an environment variable.
func CheckEnvName(name string) bool { return checkEnvName("", name) == nil }
