package doctor

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/proxy"
)

const (
	// podmanProxy is what the agent's start told podman of a proxy; see setup-user.
	podmanProxy = "run/fleet-agent-proxy.conf"
	// serviceEnvironment is where the environment of the service comes from.
	serviceEnvironment = "etc/default/fleet-agent"
)

// askProxy sorts out what attempts to reach servers say of the proxy.
func (p Probe) askProxy(ctx context.Context, attempts []Attempt) *Proxy {
	if p.Proxy == nil {
		return nil
	}
	found := &Proxy{Name: p.Proxy.String(), Spare: p.Proxy.IsSpare(), Given: p.given()}
	found.Exposed, found.Hide = p.exposed()
	for _, a := range attempts {
		u, err := url.Parse(a.Address)
		if err != nil {
			continue // others say so
		}
		if address := hostPort(u); p.Proxy.Covers(address) {
			found.Attempts = append(found.Attempts, Attempt{Address: address, Err: p.throughProxy(ctx, address, a.Err)})
		}
	}
	return found
}

// throughProxy returns what an attempt at an address says of the proxy; nil when
// something came through.
func (p Probe) throughProxy(ctx context.Context, address string, err error) error {
	if p.Proxy.IsSpare() { // it may have been done without
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		return p.Proxy.Try(ctx, address)
	}
	if problem, ok := errors.AsType[*proxy.Error](err); ok {
		return problem
	}
	return nil
}

// hostPort is where a server listens, of a URL of the bus or of enrollment.
func hostPort(u *url.URL) string {
	usual := "4222"
	if u.Scheme == "https" {
		usual = "443"
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), usual))
}

// given compares what podman was told with what there is to tell.
func (p Probe) given() Fact[bool] {
	want, err := p.Proxy.ContainersConf()
	if err != nil {
		return unknownFact[bool](err)
	}
	got, err := p.tryRead(podmanProxy)
	if os.IsPermission(err) {
		return unknownFact[bool](ErrNeedsRoot)
	}
	return known(got == want)
}

// exposed looks for a password where every account can read it.
func (p Probe) exposed() (file, hide string) {
	if file := p.Config.Proxy.CredentialsFile; file != "" && p.open(file) {
		quoted := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
		return file, "chgrp " + agentAccount + " " + quoted + " && chmod 0640 " + quoted
	}
	if p.Proxy.Login() != "" && p.open(serviceEnvironment) && strings.Contains(strings.ToUpper(p.read(serviceEnvironment)), "HTTPS_PROXY=") {
		return "/" + serviceEnvironment, "chmod 0600 /" + serviceEnvironment
	}
	return "", ""
}

// open reports whether every account can read a file.
func (p Probe) open(file string) bool {
	info, err := os.Stat(p.path(file))
	return err == nil && info.Mode().Perm()&0o004 != 0
}
