package score

// EnvVar is one environment variable.
type EnvVar struct {
	// Name is a letter or "_", then letters, digits, "_", "." and "-".
	Name string `json:"name"`
	// Value is what the variable has.
	Value string `json:"value,omitempty" template:"text"`
	// ValueFrom takes the value from elsewhere; Value is empty then.
	ValueFrom *EnvVarSource `json:"valueFrom,omitempty"`
}

// EnvVarSource is where the value of an environment variable comes from: one of these.
type EnvVarSource struct {
	SecretKeyRef    SecretKeyRef    `json:"secretKeyRef,omitzero"`
	ConfigMapKeyRef ConfigMapKeyRef `json:"configMapKeyRef,omitzero"`
}

// SecretKeyRef names a key of a Secret in the namespace of the Deployment.
type SecretKeyRef struct {
	// Name is that of the Secret.
	Name string `json:"name"`
	// Key is one of the keys of its data.
	Key string `json:"key"`
}

// ConfigMapKeyRef names a key of a ConfigMap in the namespace of the Deployment.
type ConfigMapKeyRef struct {
	// Name is that of the ConfigMap.
	Name string `json:"name"`
	// Key is one of the keys of its data.
	Key string `json:"key"`
}

func (e EnvVar) validate(at string) error {
	return all(checkEnvName(at+".name", e.Name), e.validateValue(at))
}

func (e EnvVar) validateValue(at string) error {
	if e.ValueFrom == nil {
		return checkStrings(at+".value", []string{e.Value})
	}
	if e.Value != "" {
		return fieldErrorf(at, "value and valueFrom exclude each other")
	}
	secret, config := e.ValueFrom.SecretKeyRef, e.ValueFrom.ConfigMapKeyRef
	at += ".valueFrom"
	if config == (ConfigMapKeyRef{}) {
		at += ".secretKeyRef"
		return all(checkSecretName(at+".name", secret.Name), checkSecretKey(at+".key", secret.Key))
	}
	if secret != (SecretKeyRef{}) {
		return fieldErrorf(at, "secretKeyRef and configMapKeyRef exclude each other")
	}
	at += ".configMapKeyRef"
	return all(checkConfigMapName(at+".name", config.Name), checkConfigMapKey(at+".key", config.Key))
}

// refuseTwice refuses variables that are given twice. Nothing else depends on it: a device takes
// the last value, as earlier versions did.
func (s *Service) refuseTwice(at string) error {
	var found mistakes
	given := map[string]bool{}
	for i, e := range s.Env {
		if e.Name != "" && given[e.Name] {
			found.add(fieldErrorf(index(at+".env", i)+".name", "%.80q is given twice", e.Name))
		}
		given[e.Name] = true
	}
	return found.err()
}
