package convert

import (
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/score"
)

// pod translates one Pod into a Deployment, of which also may have more to say.
func (k *kube) pod(m *metav1.ObjectMeta, in *corev1.PodSpec, at []string, also func(*pod)) {
	p := &pod{kube: k, at: at, in: in, volumes: map[string]corev1.VolumeSource{}, used: map[string]bool{}, security: take(&in.SecurityContext)}
	p.out.Name, p.out.Namespace, p.out.NodeSelector, p.out.Labels = label(m.Name), m.Namespace, take(&in.NodeSelector), m.Labels
	if p.out.Name != m.Name {
		k.lose(below(k.root, "metadata", "name"), "a name has small letters, digits and '-' only, so it is "+p.out.Name, "use that name")
	}
	for _, key := range slices.Sorted(maps.Keys(p.out.NodeSelector)) {
		if strings.Contains(key, "kubernetes.io/") && key != "kubernetes.io/arch" && key != "kubernetes.io/os" {
			k.lose(below(at, "nodeSelector", key), "devices do not have this label unless you give it to them", "select the label device-id, or one of yours")
		}
	}
	for _, v := range take(&in.Volumes) {
		p.volumes[v.Name] = v.VolumeSource
	}
	for _, s := range take(&in.ImagePullSecrets) {
		p.out.Score.ImagePullSecrets = append(p.out.Score.ImagePullSecrets, score.PullSecret{Name: s.Name})
	}
	p.restart = score.RestartPolicy(take(&in.RestartPolicy))
	if n := take(&in.TerminationGracePeriodSeconds); n != nil {
		seconds := int(min(max(*n, 0), 3600))
		if int64(seconds) != *n {
			k.lose(below(at, "terminationGracePeriodSeconds"), "it is at most an hour", "give less")
		}
		p.grace = &seconds
	}
	p.hostPID, p.hostIPC, p.hostname = take(&in.HostPID), take(&in.HostIPC), take(&in.Hostname)
	p.network()
	inits, containers := take(&in.InitContainers), take(&in.Containers)
	for i := range inits {
		p.container(&inits[i], below(at, "initContainers", item(i)), true)
	}
	for i := range containers {
		p.container(&containers[i], below(at, "containers", item(i)), false)
	}
	p.leftSecurity()
	p.unused()
	k.leftovers(at, reflect.ValueOf(*in), "json", kubeAdvices)
	also(p)
	if len(p.out.Score.Services) > 0 && Check(&p.out.Score) != nil {
		k.lose(at, "as a whole it is no valid score: "+Check(&p.out.Score).Error(), "correct it")
		return
	}
	if len(p.out.Score.Services) > 0 {
		k.Deployments = append(k.Deployments, p.out)
	}
}

// pod is what containers of a Pod share.
type pod struct {
	*kube
	at               []string
	in               *corev1.PodSpec
	out              Deployment
	volumes          map[string]corev1.VolumeSource
	used             map[string]bool
	security         *corev1.PodSecurityContext
	restart          score.RestartPolicy
	grace            *int
	hostPID, hostIPC bool
	hostname         string
}

func (p *pod) network() {
	n := score.Network{}
	switch {
	case take(&p.in.HostNetwork):
		n.Mode = score.NetworkHost
	case len(p.in.Containers) > 1:
		n.Mode = score.NetworkShared
	}
	for i, a := range take(&p.in.HostAliases) {
		alias := score.HostAlias{IP: a.IP, Hostnames: a.Hostnames}
		if !okAlias(alias) {
			p.lose(below(p.at, "hostAliases", item(i)), "it is not an address with names", "correct it")
			continue
		}
		n.HostAliases = append(n.HostAliases, alias)
	}
	if d := p.in.DNSConfig; d != nil {
		dns := score.DNS{Nameservers: d.Nameservers, Searches: d.Searches}
		for _, o := range d.Options {
			text := o.Name
			if o.Value != nil {
				text += ":" + *o.Value
			}
			dns.Options = append(dns.Options, text)
		}
		if valid(&score.PodmanV0{Services: []score.Service{{Name: "x", Image: "localhost/x:1"}}, Network: &score.Network{DNS: dns}}) {
			n.DNS = dns
			take(&p.in.DNSConfig)
		}
	}
	if p.in.DNSPolicy == corev1.DNSDefault || p.in.DNSPolicy == corev1.DNSClusterFirst || p.in.DNSPolicy == corev1.DNSClusterFirstWithHostNet {
		take(&p.in.DNSPolicy) // containers ask whom the device asks
	}
	if !reflect.ValueOf(n).IsZero() {
		p.out.Score.Network = &n
	}
}

// leftSecurity reports what of the Pod's security is left after its containers took theirs.
func (p *pod) leftSecurity() {
	if s := p.security; s != nil {
		rest := *s
		rest.RunAsUser, rest.RunAsGroup, rest.SupplementalGroups, rest.Sysctls = nil, nil, nil, nil
		rest.SeccompProfile = restSeccomp(rest.SeccompProfile)
		rest.SELinuxOptions = nil
		if rest.RunAsNonRoot != nil && (!*rest.RunAsNonRoot || s.RunAsUser != nil && *s.RunAsUser != 0) {
			rest.RunAsNonRoot = nil // it is so, and containers that say otherwise are named
		}
		p.leftovers(below(p.at, "securityContext"), reflect.ValueOf(rest), "json", kubeSecurityAdvices)
	}
}

// container translates one container.
func (p *pod) container(in *corev1.Container, at []string, init bool) {
	s := score.Service{Name: label(in.Name), WorkingDir: literal(take(&in.WorkingDir))}
	if s.Name != in.Name {
		p.lose(below(at, "name"), "a name has small letters, digits and '-' only", "use "+s.Name)
	}
	take(&in.Name)
	c := &container{project: &project{name: p.out.Name}, group: &group{}, at: at, name: s.Name, out: s}
	c.imageOf(take(&in.Image))
	c.out.PullPolicy = score.PullPolicy(take(&in.ImagePullPolicy))
	if c.out.PullPolicy == "" && moves(c.out.Image) {
		c.out.PullPolicy = score.PullAlways // as Kubernetes does
	}
	c.out.TerminationGracePeriodSeconds = p.grace
	c.out.HostPID, c.out.HostIPC = p.hostPID, p.hostIPC
	if p.hostname != "" && !c.refused(func(s *score.Service) { s.Hostname = p.hostname }) {
		c.out.Hostname = p.hostname
	} else if p.hostname != "" {
		c.lost("the Pod's hostname is none that PodmanV0 takes", "use small letters, digits and '-'")
	}
	c.kubeCommand(in, c.kubeEnv(in, p.out.Namespace))
	c.kubeMounts(in, p)
	c.kubeResources(in)
	c.kubeSecurity(in, p.security)
	if !init {
		c.out.Restart = p.restart
		ports := in.Ports
		c.kubePorts(in, p.out.Score.NetworkMode())
		c.kubeProbes(in, ports)
	}
	// What is to be seen of the output is podman's to keep.
	if in.TerminationMessagePath == "/dev/termination-log" {
		take(&in.TerminationMessagePath)
	}
	p.losses.list = append(p.losses.list, c.list...)
	p.leftovers(at, reflect.ValueOf(*in), "json", kubeContainerAdvices)
	if init {
		p.out.Score.InitContainers = append(p.out.Score.InitContainers, c.out)
		return
	}
	p.out.Score.Services = append(p.out.Score.Services, c.out)
}

// moves reports whether the tag of an image is latest, or none is given.
func moves(image string) bool {
	_, tag, _ := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	return !strings.Contains(image, "@") && (tag == "" || tag == "latest")
}

// kubeEnv translates the environment, and returns what is known of it.
func (c *container) kubeEnv(in *corev1.Container, namespace string) *environment {
	known := &environment{values: map[string]string{}, others: map[string]bool{}, any: len(in.EnvFrom) > 0, room: score.MaxSize}
	for i, e := range take(&in.Env) {
		v := c.variable(&e, known, i)
		if from := e.ValueFrom; from != nil && from.FieldRef != nil && from.FieldRef.FieldPath == "metadata.namespace" && namespace != "" {
			v = score.EnvVar{Name: e.Name, Value: namespace}
		}
		if c.refused(func(s *score.Service) { s.Env = []score.EnvVar{v} }) || slices.ContainsFunc(c.out.Env, func(o score.EnvVar) bool { return o.Name == v.Name }) {
			c.lost("PodmanV0 takes a value, or a key of a Secret or ConfigMap, once for a name", "write the value", "env", item(i))
			continue
		}
		c.out.Env = append(c.out.Env, v)
	}
	for i, e := range take(&in.EnvFrom) {
		v := score.EnvFrom{Prefix: e.Prefix}
		if e.ConfigMapRef != nil {
			v.ConfigMapRef.Name = e.ConfigMapRef.Name
			c.optional(e.ConfigMapRef.Optional, "envFrom", item(i))
		}
		if e.SecretRef != nil {
			v.SecretRef.Name = e.SecretRef.Name
			c.optional(e.SecretRef.Optional, "envFrom", item(i))
		}
		if c.refused(func(s *score.Service) { s.EnvFrom = []score.EnvFrom{v} }) {
			c.lost("PodmanV0 takes one ConfigMap or Secret and a prefix", "correct it", "envFrom", item(i))
			continue
		}
		c.out.EnvFrom = append(c.out.EnvFrom, v)
	}
	return known
}

// variable translates one variable, and makes it known to those that follow.
func (c *container) variable(e *corev1.EnvVar, known *environment, i int) score.EnvVar {
	v := score.EnvVar{Name: e.Name, Value: c.expanded(e.Value, known, "env", item(i))}
	if from := e.ValueFrom; from != nil {
		v.ValueFrom = &score.EnvVarSource{}
		switch {
		case from.SecretKeyRef != nil:
			v.ValueFrom.SecretKeyRef = score.SecretKeyRef{Name: from.SecretKeyRef.Name, Key: from.SecretKeyRef.Key}
			c.optional(from.SecretKeyRef.Optional, "env", item(i))
		case from.ConfigMapKeyRef != nil:
			v.ValueFrom.ConfigMapKeyRef = score.ConfigMapKeyRef{Name: from.ConfigMapKeyRef.Name, Key: from.ConfigMapKeyRef.Key}
			c.optional(from.ConfigMapKeyRef.Optional, "env", item(i))
		case from.FieldRef != nil && fields[from.FieldRef.FieldPath] != "":
			v.Value, v.ValueFrom = fields[from.FieldRef.FieldPath], nil
			known.others[e.Name] = true
			return v
		}
	}
	value, _, _ := expand(e.Value, known) // what is lost of it is reported
	known.set(v, value)
	return v
}

func (c *container) optional(is *bool, path ...string) {
	if is != nil && *is {
		c.lost("what a score names must be there", "create it, if only empty", append(path, "optional")...)
	}
}

func (c *container) kubePorts(in *corev1.Container, mode score.NetworkMode) {
	for i, p := range take(&in.Ports) {
		port := score.Port{HostPort: int(p.HostPort), ContainerPort: int(p.ContainerPort), HostIP: p.HostIP}
		if p.Protocol != corev1.ProtocolTCP {
			port.Protocol = string(p.Protocol)
		}
		switch {
		case p.HostPort == 0 || mode == score.NetworkHost:
			// It documents a port: others of the Deployment reach all of them.
		case c.refused(func(s *score.Service) { s.Ports = []score.Port{port} }):
			c.lost("it is no port that fleet can publish", "publish TCP and UDP ports", "ports", item(i))
		default:
			c.out.Ports = append(c.out.Ports, port)
			c.low(port, i)
		}
	}
}

func (c *container) kubeResources(in *corev1.Container) {
	limits, requests := in.Resources.Limits, in.Resources.Requests
	if q, ok := limits[corev1.ResourceMemory]; ok {
		delete(limits, corev1.ResourceMemory)
		c.memory(q.Value(), "resources", "limits", "memory")
	}
	if q, ok := limits[corev1.ResourceCPU]; ok {
		delete(limits, corev1.ResourceCPU)
		c.cpus(q.AsApproximateFloat64(), "resources", "limits", "cpu")
	}
	if q, ok := requests[corev1.ResourceMemory]; ok {
		delete(requests, corev1.ResourceMemory)
		c.reservation(q.Value(), "resources", "requests", "memory")
	}
}

// kubeMounts translates mounts of the Pod's volumes.
func (c *container) kubeMounts(in *corev1.Container, p *pod) {
	var left []corev1.VolumeMount
	for i, m := range take(&in.VolumeMounts) {
		m.MountPath, m.SubPath = cleaned(m.MountPath), cleaned(m.SubPath)
		v := score.Volume{MountPath: m.MountPath, ReadOnly: m.ReadOnly, SubPath: m.SubPath}
		source, known := p.volumes[m.Name]
		rest := source.DeepCopy()
		if source.HostPath != nil {
			if c.hostPath(path.Clean(source.HostPath.Path), m.MountPath, m.ReadOnly, "volumeMounts", item(i)) {
				p.volumeOf(&v, m.Name, rest)
				p.leftVolume(m.Name, &source, rest)
				left = append(left, leftMount(m))
			}
			p.used[m.Name] = true
			continue
		}
		if !known || !p.volumeOf(&v, m.Name, rest) || !c.fits(v) {
			c.lost("PodmanV0 has no volume of this kind or with this path", "use an emptyDir, hostPath, configMap, secret or persistentVolumeClaim", "volumeMounts", item(i))
			continue
		}
		c.out.Volumes = append(c.out.Volumes, v)
		p.leftVolume(m.Name, &source, rest)
		m.SubPath = ""
		left = append(left, leftMount(m))
	}
	in.VolumeMounts = left
}

// leftMount is what is left of a mount that was translated.
func leftMount(m corev1.VolumeMount) corev1.VolumeMount {
	m.Name, m.MountPath, m.ReadOnly = "", "", false
	if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationNone {
		m.MountPropagation = nil
	}
	return m
}

func (c *container) fits(v score.Volume) bool {
	trial := append(slices.Clone(c.out.Volumes), v)
	return !c.refused(func(s *score.Service) { s.Volumes = trial })
}

// volumeOf says what a volume of a Pod is for a service, and takes it. It reports whether it is
// anything.
func (p *pod) volumeOf(v *score.Volume, name string, in *corev1.VolumeSource) bool {
	switch {
	case in.HostPath != nil:
		v.HostPath = take(&in.HostPath.Path)
		if t := in.HostPath.Type; t != nil && *t == "" {
			take(&in.HostPath.Type)
		}
	case in.EmptyDir != nil && in.EmptyDir.Medium == corev1.StorageMediumMemory:
		take(&in.EmptyDir.Medium)
		v.EmptyDir = &score.EmptyDir{Medium: score.MediumMemory}
		if q := take(&in.EmptyDir.SizeLimit); q != nil {
			v.EmptyDir.SizeLimit = quantity(q.Value())
		}
	case in.EmptyDir != nil:
		v.Name = label(strings.Trim(name+"-"+take(&v.SubPath), "-")) // a volume for each directory of it
	case in.PersistentVolumeClaim != nil:
		v.Name = label(strings.Trim(take(&in.PersistentVolumeClaim.ClaimName)+"-"+take(&v.SubPath), "-"))
		v.ReadOnly = v.ReadOnly || take(&in.PersistentVolumeClaim.ReadOnly)
	case in.ConfigMap != nil:
		v.ConfigMap = &score.ConfigMapFiles{Name: take(&in.ConfigMap.Name), DefaultMode: mode(take(&in.ConfigMap.DefaultMode)), Items: items(in.ConfigMap.Items)}
		v.ReadOnly = false // it is
	case in.Secret != nil:
		v.Secret = &score.SecretFiles{SecretName: take(&in.Secret.SecretName), DefaultMode: mode(take(&in.Secret.DefaultMode)), Items: items(in.Secret.Items)}
		v.ReadOnly = false
	default:
		return false
	}
	return true
}

// leftVolume reports what of a volume is left or means something else, once.
func (p *pod) leftVolume(name string, in, rest *corev1.VolumeSource) {
	if p.used[name] {
		return
	}
	p.used[name] = true
	at := below(p.at, "volumes", name)
	switch {
	case in.HostPath != nil:
	case in.EmptyDir != nil && in.EmptyDir.Medium == "":
		p.lose(at, "it is a named volume, which keeps its content", "use medium: Memory for what must not stay")
	case in.PersistentVolumeClaim != nil:
		p.lose(at, "it is a named volume of the Deployment, which begins empty", "use hostPath for data that is there already")
	}
	p.leftovers(at, reflect.ValueOf(*rest), "json", kubeVolumeAdvices)
}

// unused reports volumes that no container mounts.
func (p *pod) unused() {
	for _, name := range slices.Sorted(maps.Keys(p.volumes)) {
		if !p.used[name] {
			p.lose(below(p.at, "volumes", name), "no container that is translated mounts it", "remove it")
		}
	}
}

func mode(in *int32) *int {
	if in == nil {
		n := 0o644 // the default of Kubernetes
		return &n
	}
	n := int(*in)
	return &n
}

func items(in []corev1.KeyToPath) (out []score.FileItem) {
	for i := range in {
		f := score.FileItem{Key: take(&in[i].Key), Path: take(&in[i].Path)}
		if m := take(&in[i].Mode); m != nil {
			f.Mode = mode(m)
		}
		out = append(out, f)
	}
	return out
}
