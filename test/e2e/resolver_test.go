//go:build linux

package e2e_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"

	"fleet.nationtech.io/fleet/test/lab"
)

// resolversChange: a container that started without any resolver, and goes on while
// those of the device change, in the ways in which network managers do it.
func (s *site) resolversChange() {
	before := s.container("default_hello_web")
	first, second := s.startResolver("192.0.2.1"), s.startResolver("192.0.2.2")
	if r, err := s.machine.RunAs(s.t.Context(), lab.WorkloadUser, "podman", "exec", "default_hello_web", "timeout", "2", "nslookup", "name.test"); err != nil || r.ExitCode == 0 {
		s.t.Errorf("the control: the name is known without a resolver: %+v, %v", r, err)
	}
	s.root("echo nameserver " + first.address() + " >/etc/resolv.conf") // as dhclient
	s.resolves("192.0.2.1")
	first.Close()
	s.root("mkdir -p /run/resolver && echo nameserver " + second.address() + " >/run/resolver/resolv.conf && ln -s /run/resolver/resolv.conf /etc/next && mv /etc/next /etc/resolv.conf")
	s.resolves("192.0.2.2")
	second.Close()
	third := s.startResolver6("192.0.2.3")
	s.root("echo nameserver " + third.address() + " >/run/resolver/next && mv /run/resolver/next /run/resolver/resolv.conf") // as NetworkManager
	s.resolves("192.0.2.3")
	if after := s.container("default_hello_web"); after != before {
		s.t.Errorf("the container is %s, want it untouched: %s", after, before)
	}
	s.root("rm -r /run/resolver /etc/resolv.conf && : >/etc/resolv.conf")
}

// resolves waits until the container of hello finds an address for a name.
func (s *site) resolves(want string) {
	s.t.Helper()
	s.eventually("the container resolves a name to "+want, func() error {
		r, err := s.machine.RunAs(s.t.Context(), lab.WorkloadUser, "podman", "exec", "default_hello_web", "sh", "-c", "timeout 3 nslookup name.test; cat /etc/resolv.conf")
		if err == nil && !strings.Contains(r.Stdout, want) {
			err = fmt.Errorf("got %s%s", r.Stdout, r.Stderr)
		}
		return err
	})
}

// resolver is a server of names in the device's network, which has one answer.
type resolver struct {
	conn net.PacketConn
	done chan struct{}
	once sync.Once
}

func (s *site) startResolver(answer string) *resolver {
	s.t.Helper()
	return s.startResolverAt(answer, func(member *lab.Namespace) netip.Addr { return member.Addr })
}

// startResolver6 starts one that is reached by IPv6.
func (s *site) startResolver6(answer string) *resolver {
	s.t.Helper()
	return s.startResolverAt(answer, (*lab.Namespace).Addr6)
}

func (s *site) startResolverAt(answer string, addr func(*lab.Namespace) netip.Addr) *resolver {
	s.t.Helper()
	member, err := s.network.Join(s.t.Context())
	s.must(err)
	s.t.Cleanup(member.Close)
	conn, err := member.ListenPacket(s.t.Context(), "udp", netip.AddrPortFrom(addr(member), 53).String())
	s.must(err)
	r := &resolver{conn: conn, done: make(chan struct{})}
	go r.serve(netip.MustParseAddr(answer).As4())
	s.t.Cleanup(r.Close)
	return r
}

func (r *resolver) address() string {
	host, _, _ := net.SplitHostPort(r.conn.LocalAddr().String())
	return host
}

// Close ends it; nobody answers any more.
func (r *resolver) Close() {
	r.once.Do(func() { _ = r.conn.Close(); <-r.done })
}

func (r *resolver) serve(answer [4]byte) {
	defer close(r.done)
	buffer := make([]byte, 1<<12)
	for {
		n, from, err := r.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		reply := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: answer},
			}}
		}
		if packed, err := reply.Pack(); err == nil {
			_, _ = r.conn.WriteTo(packed, from) // whoever asks asks again
		}
	}
}
