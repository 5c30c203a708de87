//go:build linux

package e2e_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"fleet.nationtech.io/fleet/pkg/agent/proxy/proxytest"
	"fleet.nationtech.io/fleet/test/lab"
)

const (
	proxyPassword = "opensesame-proxy"
	// otherImage is in a registry that only the proxy reaches.
	otherImage = "registry.example.com/team/other:1"
)

// onlyWayOutIsAProxy: the device has no route to its gateway. It enrolls, connects and
// pulls through a proxy that wants a login, and nobody learns the password.
func (s *site) onlyWayOutIsAProxy() {
	ctx := s.t.Context()
	p := s.startProxy()
	gateway, err := url.Parse(s.server.EnrollURL)
	s.must(err)
	image := s.gatewayHas("behind/app:1")
	s.root("cp -p /etc/fleet-agent/agent.yaml /root/agent.yaml")
	s.must(s.machine.Link.Block(ctx, s.network.Server.Addr))
	s.enrollThrough(p)
	s.apply("behind", fmt.Sprintf("{name: near, image: %q}, {name: far, image: %q}", image, otherImage))
	s.aggregate("behind", counts{1, 1, 0, 0})
	for _, address := range []string{strings.TrimPrefix(s.server.NATSURL, "tls://"), gateway.Host, "registry.example.com:443"} {
		if !strings.Contains(strings.Join(p.Asked(), " "), address) {
			s.t.Errorf("the proxy was not asked for %s, but for %v", address, p.Asked())
		}
	}
	doctor, err := s.machine.Run(ctx, "fleet-agent", "doctor")
	s.must(err)
	if want := "the proxy " + p.URL() + " (proxy.url) connects to " + gateway.Host; !strings.Contains(doctor.Stdout, "ok       proxy              "+want) {
		s.t.Errorf("doctor does not say %q:\n%s", want, doctor.Stdout)
	}
	s.passwordIsHidden(doctor.Stdout)

	s.must(s.machine.Link.Unblock(ctx, s.network.Server.Addr))
	s.root("mv /root/agent.yaml /etc/fleet-agent/agent.yaml && rm /etc/fleet-agent/proxy-credentials && systemctl restart fleet-agent")
	s.connected()
	if left := s.root("ls /var/lib/fleet-workload/.config/containers/containers.conf.d"); strings.Contains(left, "proxy") {
		s.t.Errorf("podman is still told of the proxy: %s", left)
	}
	s.kubectl("delete", "fleetdep", "behind")
	s.containers("default_hello_web")
	s.podman("image", "rm", image, otherImage)
}

// enrollThrough enrolls the device anew by a proxy of the environment, which it keeps.
func (s *site) enrollThrough(p *proxytest.Proxy) {
	s.t.Helper()
	ctx := s.t.Context()
	replacement, err := s.server.Run(ctx, "", "device", "replace", deviceName)
	s.must(err)
	token := strings.Fields(replacement)[0]
	s.must(s.machine.WriteFile(ctx, "/run/fleet-token", strings.NewReader(token), 0o600))
	enroll := []string{"fleet-agent", "enroll", "--server", s.server.EnrollURL, "--token-file", "/run/fleet-token", "--name", deviceName, "--force"}
	if r, err := s.machine.Run(ctx, enroll...); err != nil || r.ExitCode == 0 {
		s.t.Fatalf("the control: the device enrolls without the proxy: %+v, %v", r, err)
	}
	variable := fmt.Sprintf("HTTPS_PROXY=http://device:%s@%s\n", proxyPassword, p.Address())
	s.must(s.machine.WriteFile(ctx, "/etc/default/fleet-agent", strings.NewReader(variable), 0o600))
	_, err = s.machine.Output(ctx, enroll...)
	s.must(err)
	s.root("rm /etc/default/fleet-agent /run/fleet-token")
	if kept := s.root("grep -A9 '^proxy:' /etc/fleet-agent/agent.yaml; stat -c '%a %U %G' /etc/fleet-agent/proxy-credentials"); !strings.Contains(kept, "url: "+p.URL()) || !strings.Contains(kept, "640 root fleet-agent") {
		s.t.Errorf("kept is %q", kept)
	}
	s.root("systemctl restart fleet-agent")
	s.connected()
}

// startProxy starts a proxy in the device's network, which reaches the gateway, and a
// registry.
func (s *site) startProxy() *proxytest.Proxy {
	s.t.Helper()
	ctx := s.t.Context()
	member, err := s.network.Join(ctx)
	s.must(err)
	s.t.Cleanup(member.Close)
	listener, err := member.Listen(ctx, "tcp", netJoin(member, 3128))
	s.must(err)
	other := s.startRegistry()
	p := &proxytest.Proxy{User: "device", Password: proxyPassword}
	p.Reach = func(ctx context.Context, address string) (net.Conn, error) {
		if address == "registry.example.com:443" {
			return new(net.Dialer).DialContext(ctx, "tcp", other)
		}
		return s.network.Server.DialContext(ctx, "tcp", address)
	}
	p.Serve(listener)
	s.t.Cleanup(p.Close)
	return p
}

func netJoin(member *lab.Namespace, port int) string {
	return net.JoinHostPort(member.Addr.String(), fmt.Sprint(port))
}

// startRegistry starts one that has otherImage, which podman of the device trusts, and
// returns its address, which the device cannot reach.
func (s *site) startRegistry() string {
	s.t.Helper()
	server := httptest.NewTLSServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	s.t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	s.must(s.machine.WriteFile(s.t.Context(), "/etc/containers/certs.d/registry.example.com/ca.crt", strings.NewReader(string(ca)), 0o644))
	archive, err := s.machine.Image(s.t.Context(), otherImage)
	s.must(err)
	content, err := tarball.ImageFromPath(archive, nil)
	s.must(err)
	address := server.Listener.Addr().String()
	ref, err := name.ParseReference(address + "/team/other:1")
	s.must(err)
	s.must(remote.Write(ref, content, remote.WithTransport(server.Client().Transport)))
	return address
}

// gatewayHas gives the gateway an image, and returns what devices call it.
func (s *site) gatewayHas(nameAndTag string) string {
	s.t.Helper()
	archive, err := s.machine.Image(s.t.Context(), "registry.example.com/"+nameAndTag)
	s.must(err)
	out, err := s.server.Run(s.t.Context(), "", "image", "push", archive)
	s.must(err)
	if out != nameAndTag+"\n" {
		s.t.Errorf("the image is called %q", out)
	}
	gateway, err := url.Parse(s.server.EnrollURL)
	s.must(err)
	return gateway.Host + "/" + nameAndTag
}

// root runs a shell command as root, and returns what it printed.
func (s *site) root(command string) string {
	s.t.Helper()
	out, err := s.machine.Output(s.t.Context(), "sh", "-c", command)
	s.must(err)
	return out
}

// connected waits until the agent is.
func (s *site) connected() {
	s.t.Helper()
	s.eventually("the agent's connection", func() error {
		out, err := s.machine.Output(s.t.Context(), "fleet-agent", "status")
		if err == nil && !strings.Contains(out, "yes, to ") {
			err = errors.New(out)
		}
		return err
	})
}

// passwordIsHidden looks where others look: what may be read by all, what containers
// have, what programs say, of which doctor did already, and command lines.
func (s *site) passwordIsHidden(said string) {
	s.t.Helper()
	const pattern = "/dev/shm/pattern" // no command line of this test's has it
	s.must(s.machine.WriteFile(s.t.Context(), pattern, strings.NewReader(proxyPassword+"\n"), 0o600))
	found := strings.Fields(s.root("grep -rlIs --exclude-dir=storage --file=" + pattern + " /etc /run /var /root || true; rm " + pattern))
	want := []string{
		"/etc/fleet-agent/proxy-credentials", "/run/fleet-agent-proxy.conf",
		"/var/lib/fleet-workload/.config/containers/containers.conf.d/60-fleet-proxy.conf",
	}
	if diff := cmp.Diff(want, found); diff != "" {
		s.t.Errorf("files with the password: %s", diff)
	}
	if modes := s.root("stat -c %a " + strings.Join(found, " ")); strings.Fields(modes)[0] != "640" || strings.Count(modes, "600") != 2 {
		s.t.Errorf("their modes are %q", modes)
	}
	said += s.root("journalctl --no-pager --boot; fleet-agent status; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
	said += s.podman("inspect", "default_behind_near", "default_behind_far") + s.podman("exec", "default_behind_near", "env") + s.podman("info")
	// What podman does by itself, with an image that is there.
	said += s.podman("run", "--rm", otherImage, "env")
	if strings.Contains(said, proxyPassword) {
		i := strings.Index(said, proxyPassword)
		s.t.Errorf("the password is said: %s", said[max(0, i-200):i+len(proxyPassword)])
	}
	if !strings.Contains(said, "conmon") {
		s.t.Error("the control: no command line was seen")
	}
}
