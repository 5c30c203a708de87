package score

// Volume mounts either a named volume, a directory of the device, or the keys
// of a Secret as files.
type Volume struct {
	// Name of a volume that belongs to the Deployment; services that use the
	// same name share it.
	Name string `json:"name,omitempty"`
	// HostPath is a directory of the device. It needs a namespace with privilege
	// "privileged", and must lie under a root that the device's agent.yaml allows.
	HostPath string `json:"hostPath,omitempty"`
	// SecretName of a Secret in the namespace of the Deployment. Each key becomes
	// a read-only file.
	SecretName string `json:"secretName,omitempty"`
	// MountPath is where the container sees it.
	MountPath string `json:"mountPath"`
	// ReadOnly mounts it read-only.
	ReadOnly bool `json:"readOnly,omitempty"`
}

func (v Volume) validate(at string) error {
	var found mistakes
	given := 0
	for _, source := range []string{v.Name, v.HostPath, v.SecretName} {
		if source != "" {
			given++
		}
	}
	if given != 1 {
		found.add(fieldErrorf(at, "exactly one of name, hostPath and secretName is needed"))
	}
	if v.Name != "" {
		found.add(checkLabel(at+".name", v.Name))
	}
	if v.HostPath != "" {
		found.add(checkAbsolute(at+".hostPath", v.HostPath))
	}
	if v.SecretName != "" {
		found.add(checkSecretName(at+".secretName", v.SecretName))
	}
	found.add(checkAbsolute(at+".mountPath", v.MountPath))
	return found.err()
}
