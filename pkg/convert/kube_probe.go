package convert

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"fleet.nationtech.io/fleet/pkg/score"
)

// kubeProbes translates probes and hooks, which may name ports. What cannot be is left and
// reported.
func (c *container) kubeProbes(in *corev1.Container, ports []corev1.ContainerPort) {
	for _, p := range []*corev1.Probe{in.StartupProbe, in.LivenessProbe, in.ReadinessProbe} {
		if p != nil {
			number(p.HTTPGet, p.TCPSocket, ports)
		}
	}
	for _, each := range []struct {
		in  **corev1.Probe
		out **score.Probe
	}{{&in.StartupProbe, &c.out.StartupProbe}, {&in.LivenessProbe, &c.out.LivenessProbe}, {&in.ReadinessProbe, &c.out.ReadinessProbe}} {
		if p := kubeProbe(*each.in); p != nil && !c.refused(func(s *score.Service) { s.ReadinessProbe = p }) {
			*each.out = p
			left := (*each.in).TerminationGracePeriodSeconds
			*each.in = nil
			if left != nil {
				*each.in = &corev1.Probe{TerminationGracePeriodSeconds: left}
			}
		}
	}
	l := in.Lifecycle
	if l == nil {
		return
	}
	var out score.Lifecycle
	out.PostStart, out.PreStop = kubeHook(l.PostStart), kubeHook(l.PreStop)
	if out == (score.Lifecycle{}) || c.refused(func(s *score.Service) { s.Lifecycle = &out }) {
		return
	}
	c.out.Lifecycle = &out
	if out.PostStart != nil {
		l.PostStart = nil
	}
	if out.PreStop != nil {
		l.PreStop = nil
	}
}

func kubeProbe(in *corev1.Probe) *score.Probe {
	if in == nil {
		return nil
	}
	p := &score.Probe{
		InitialDelaySeconds: given(in.InitialDelaySeconds), PeriodSeconds: given(in.PeriodSeconds), TimeoutSeconds: given(in.TimeoutSeconds),
		SuccessThreshold: given(in.SuccessThreshold), FailureThreshold: given(in.FailureThreshold),
	}
	switch {
	case in.Exec != nil:
		p.Exec = &score.ExecProbe{Command: literals(in.Exec.Command)}
	case in.HTTPGet != nil:
		p.HTTPGet = httpGet(in.HTTPGet)
	case in.TCPSocket != nil && in.TCPSocket.Host == "" && in.TCPSocket.Port.Type == intstr.Int:
		p.TCPSocket = &score.TCPProbe{Port: int(in.TCPSocket.Port.IntVal)}
	case in.GRPC != nil:
		p.GRPC = &score.GRPCProbe{Port: int(in.GRPC.Port)}
		if in.GRPC.Service != nil {
			p.GRPC.Service = *in.GRPC.Service
		}
	}
	return p
}

// httpGet is nil for a page of another host or of a port by name.
func httpGet(in *corev1.HTTPGetAction) *score.HTTPProbe {
	if in.Host != "" || in.Port.Type != intstr.Int {
		return nil
	}
	h := &score.HTTPProbe{Path: in.Path, Port: int(in.Port.IntVal)}
	if s := strings.ToUpper(string(in.Scheme)); s != score.SchemeHTTP {
		h.Scheme = s
	}
	for _, header := range in.HTTPHeaders {
		h.HTTPHeaders = append(h.HTTPHeaders, score.HTTPHeader{Name: header.Name, Value: header.Value})
	}
	return h
}

func kubeHook(in *corev1.LifecycleHandler) *score.Hook {
	switch {
	case in == nil:
	case in.Exec != nil:
		return &score.Hook{Exec: &score.ExecProbe{Command: literals(in.Exec.Command)}}
	case in.HTTPGet != nil && httpGet(in.HTTPGet) != nil:
		return &score.Hook{HTTPGet: httpGet(in.HTTPGet)}
	}
	return nil
}

// number gives ports that a probe names their numbers.
func number(get *corev1.HTTPGetAction, socket *corev1.TCPSocketAction, ports []corev1.ContainerPort) {
	for _, p := range ports {
		if get != nil && get.Port.Type == intstr.String && get.Port.StrVal == p.Name {
			get.Port = intstr.FromInt32(p.ContainerPort)
		}
		if socket != nil && socket.Port.Type == intstr.String && socket.Port.StrVal == p.Name {
			socket.Port = intstr.FromInt32(p.ContainerPort)
		}
	}
}

func given(n int32) *int {
	if n == 0 {
		return nil
	}
	wide := int(n)
	return &wide
}
