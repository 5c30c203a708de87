package score

// Volume mounts either a named volume, a directory or file of the device, the keys of a
// Secret or a ConfigMap as files, or an empty directory in memory.
type Volume struct {
	// Name of a volume that belongs to the Deployment; services that use the
	// same name share it.
	Name string `json:"name,omitempty"`
	// HostPath is a directory or file of the device. It needs a namespace with privilege
	// "privileged", and must lie under a root that the device's agent.yaml allows.
	HostPath string `json:"hostPath,omitempty" template:"path"`
	// SecretName of a Secret in the namespace of the Deployment. Each key becomes
	// a read-only file beside what the image has at the path.
	SecretName string `json:"secretName,omitempty"`
	// ConfigMap and Secret become a read-only directory of files, or one file, see SubPath.
	ConfigMap *ConfigMapFiles `json:"configMap,omitempty"`
	Secret    *SecretFiles    `json:"secret,omitempty"`
	// MountPath is where the container sees it.
	MountPath string `json:"mountPath"`
	// ReadOnly mounts it read-only.
	ReadOnly bool `json:"readOnly,omitempty"`
	// EmptyDir is a directory in memory.
	EmptyDir *EmptyDir `json:"emptyDir,omitempty"`
	// SizeLimit bounds what a named volume may hold in bytes: 1Gi. It is for podmans that
	// can do that, which rootless ones cannot.
	SizeLimit string `json:"sizeLimit,omitempty"`
	// SubPath is the one file of a ConfigMap or Secret that is mounted, at MountPath itself.
	SubPath string `json:"subPath,omitempty"`
	// Reload says what becomes of the service when the content of a ConfigMap or Secret
	// changes: ReloadRestart when it is empty.
	Reload Reload `json:"reload,omitempty"`
	// ReloadSignal is what ReloadSignal sends: SIGHUP when it is empty.
	ReloadSignal string `json:"reloadSignal,omitempty"`
}

func (v Volume) validate(at string) error {
	var found mistakes
	given := 0
	for _, is := range []bool{v.Name != "", v.HostPath != "", v.SecretName != "", v.ConfigMap != nil, v.Secret != nil, v.EmptyDir != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		found.add(fieldErrorf(at, "exactly one of name, hostPath, secretName, configMap, secret and emptyDir is needed"))
	}
	found.add(v.EmptyDir.validate(at + ".emptyDir"))
	if v.SizeLimit != "" && v.Name == "" {
		found.add(fieldErrorf(at+".sizeLimit", "is for a named volume: emptyDir has one of its own"))
	}
	found.add(checkBytes(at+".sizeLimit", v.SizeLimit, "1Mi"))
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
	found.add(v.validateFiles(at))
	return found.err()
}

// validateVolumes refuses volumes that two services give different sizes.
func (p *PodmanV0) validateVolumes() error {
	var found mistakes
	sizes := map[string]string{}
	for i := range p.Services {
		for j, v := range p.Services[i].Volumes[:min(len(p.Services[i].Volumes), maxListItems)] {
			if v.Name == "" || v.SizeLimit == "" {
				continue
			}
			if size, known := sizes[v.Name]; known && Bytes(size) != Bytes(v.SizeLimit) {
				found.add(fieldErrorf(index(index("services", i)+".volumes", j)+".sizeLimit", "volume %.63s has the size %.32s already", v.Name, size))
			}
			sizes[v.Name] = v.SizeLimit
		}
	}
	return found.err()
}
