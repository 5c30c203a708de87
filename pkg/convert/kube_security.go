package convert

import (
	corev1 "k8s.io/api/core/v1"

	"fleet.nationtech.io/fleet/pkg/score"
)

// kubeSecurity translates the rights of a container, with those of its Pod where it says
// nothing itself.
func (c *container) kubeSecurity(in *corev1.Container, pod *corev1.PodSecurityContext) {
	if in.SecurityContext == nil && pod == nil {
		return
	}
	s := in.SecurityContext
	if s == nil {
		s = &corev1.SecurityContext{}
	}
	escalates := true // as in Kubernetes
	out := score.SecurityContext{AllowPrivilegeEscalation: &escalates}
	try := func(set func(*score.SecurityContext)) bool {
		trial := out
		set(&trial)
		if c.refused(func(s *score.Service) { s.SecurityContext = &trial }) {
			return false
		}
		out = trial
		return true
	}
	user, group := s.RunAsUser, s.RunAsGroup
	if pod != nil {
		c.podSecurity(pod, s, &user, &group, try)
	}
	if user != nil && try(func(o *score.SecurityContext) { o.RunAsUser = wide(user) }) {
		s.RunAsUser = nil
	}
	if group != nil && try(func(o *score.SecurityContext) { o.RunAsGroup = wide(group) }) {
		s.RunAsGroup = nil
	}
	if r := take(&s.ReadOnlyRootFilesystem); r != nil {
		out.ReadOnlyRootFilesystem = *r
	}
	if a := take(&s.AllowPrivilegeEscalation); a != nil {
		out.AllowPrivilegeEscalation = a
	}
	if p := s.Privileged; p != nil && !*p {
		take(&s.Privileged)
	}
	if n := s.RunAsNonRoot; n != nil && (!*n || user != nil && *user != 0) {
		take(&s.RunAsNonRoot)
	}
	if k := s.Capabilities; k != nil {
		k.Add = keep(k.Add, func(name string) bool {
			return try(func(o *score.SecurityContext) { o.Capabilities.Add = append(o.Capabilities.Add, capability(name)) })
		})
		k.Drop = keep(k.Drop, func(name string) bool {
			return try(func(o *score.SecurityContext) { o.Capabilities.Drop = append(o.Capabilities.Drop, capability(name)) })
		})
	}
	if restSeccomp(s.SeccompProfile) == nil && s.SeccompProfile != nil {
		out.SeccompProfile.Type = score.SeccompType(take(&s.SeccompProfile).Type)
	}
	if o := s.SELinuxOptions; o != nil && try(func(out *score.SecurityContext) {
		out.SELinuxOptions = score.SELinuxOptions{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
	}) {
		take(&s.SELinuxOptions)
	}
	c.out.SecurityContext = &out
}

// podSecurity adds what the Pod says for all of its containers.
func (c *container) podSecurity(pod *corev1.PodSecurityContext, s *corev1.SecurityContext, user, group **int64, try func(func(*score.SecurityContext)) bool) {
	if *user == nil {
		*user = pod.RunAsUser
	}
	if *group == nil {
		*group = pod.RunAsGroup
	}
	for _, id := range pod.SupplementalGroups {
		if !try(func(o *score.SecurityContext) { o.SupplementalGroups = append(o.SupplementalGroups, int(id)) }) {
			c.lost("fleet takes numbers of groups up to 65535", "give such a number")
		}
	}
	for _, each := range pod.Sysctls {
		if !try(func(o *score.SecurityContext) {
			o.Sysctls = append(o.Sysctls, score.Sysctl{Name: each.Name, Value: each.Value})
		}) {
			c.lost("the sysctl "+each.Name+" is one of the whole device, or its value is none", "set it on the device: /etc/sysctl.d")
		}
	}
	if s.SeccompProfile == nil && restSeccomp(pod.SeccompProfile) == nil && pod.SeccompProfile != nil {
		try(func(o *score.SecurityContext) { o.SeccompProfile.Type = score.SeccompType(pod.SeccompProfile.Type) })
	}
	if o := pod.SELinuxOptions; s.SELinuxOptions == nil && o != nil && !try(func(out *score.SecurityContext) {
		out.SELinuxOptions = score.SELinuxOptions{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
	}) {
		c.lost("the label of SELinux has parts that are none", "correct it")
	}
	if *user != nil && (**user < 0 || **user > 65535) && s.RunAsUser == nil {
		c.lost("fleet takes numbers of users up to 65535", "give such a number")
	}
	if *group != nil && (*user == nil || **group < 0 || **group > 65535) && s.RunAsGroup == nil {
		c.lost("fleet takes numbers of groups up to 65535, and with a user", "give both")
	}
}

// restSeccomp is what of a profile cannot be translated.
func restSeccomp(p *corev1.SeccompProfile) *corev1.SeccompProfile {
	if p != nil && p.LocalhostProfile == nil && (p.Type == corev1.SeccompProfileTypeRuntimeDefault || p.Type == corev1.SeccompProfileTypeUnconfined) {
		return nil
	}
	return p
}

func keep(names []corev1.Capability, taken func(string) bool) (left []corev1.Capability) {
	for _, name := range names {
		if !taken(string(name)) {
			left = append(left, name)
		}
	}
	return left
}

func wide(n *int64) *int {
	w := int(*n)
	return &w
}
