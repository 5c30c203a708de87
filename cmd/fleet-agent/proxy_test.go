package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/proxy/proxytest"
	"fleet.nationtech.io/fleet/pkg/settings"
)

const secret = "open/sesame"

// behind starts a proxy that wants a login and knows where gateway.test is.
func behind(t *testing.T, g *gateway) *proxytest.Proxy {
	t.Helper()
	p := proxytest.Start(t)
	p.User, p.Password = "device", secret
	p.Hosts = map[string]string{"gateway.test:8443": strings.TrimPrefix(g.url, "https://")}
	return p
}

func (h *host) read(path string) string {
	h.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

func TestEnrollThroughTheProxyOfAFlag(t *testing.T) {
	t.Parallel()
	g, h := newGateway(t), newHost(t)
	p := behind(t, g)
	login := h.write("login", "device:"+secret+"\n")
	enroll := []string{"enroll", "--server", "https://gateway.test:8443", "--name", "pi-1", "--proxy", p.URL()}
	if _, err := h.run(g.token, enroll...); err == nil || !strings.Contains(err.Error(), "wants a login (status 407)") {
		t.Errorf("without a login: %v", err)
	}
	out, err := h.run(g.token, append(enroll, "--proxy-credentials-file", login, "--no-proxy", "10.0.0.0/8,.near.test")...)
	if err != nil || !strings.Contains(out, "go through the proxy "+p.URL()) {
		t.Fatalf("%v: %s", err, out)
	}
	cfg, err := config.Load(h.config, true, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Proxy{URL: p.URL(), NoProxy: []string{"10.0.0.0/8", ".near.test"}, CredentialsFile: login}
	if diff := cmp.Diff(want, cfg.Proxy); diff != "" {
		t.Error(diff)
	}
	h.noSecret(out)
}

// TestEnrollThroughTheProxyOfTheEnvironment keeps it, and hides the password.
func TestEnrollThroughTheProxyOfTheEnvironment(t *testing.T) {
	g, h := newGateway(t), newHost(t)
	p := behind(t, g)
	t.Setenv("HTTPS_PROXY", strings.Replace(p.URL(), "://", "://device:open%2Fsesame@", 1))
	t.Setenv("NO_PROXY", "10.0.0.0/8, .near.test")
	out, err := h.run(g.token, "enroll", "--server", "https://gateway.test:8443", "--name", "pi-1")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(h.config, true, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	login := filepath.Join(filepath.Dir(h.config), "proxy-credentials")
	want := config.Proxy{URL: p.URL(), NoProxy: []string{"10.0.0.0/8", ".near.test"}, CredentialsFile: login}
	if diff := cmp.Diff(want, cfg.Proxy); diff != "" {
		t.Error(diff)
	}
	if got := h.read(login); got != "device:"+secret+"\n" {
		t.Errorf("the file of the login holds %q", got)
	}
	if info, err := os.Stat(login); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("others may read the login: %v, %v", info.Mode(), err)
	}
	h.noSecret(out)
	// A password that is wrong is not repeated either.
	h2 := newHost(t)
	p.Password = "another"
	if _, err := h2.run(g.token, "enroll", "--server", "https://gateway.test:8443"); err == nil || !strings.Contains(err.Error(), "refuses the login (status 407)") {
		t.Errorf("a wrong login: %v", err)
	} else {
		h2.noSecret(err.Error())
	}
	t.Setenv("HTTPS_PROXY", "http://device:"+secret+" @proxy")
	if _, err := h2.run(g.token, "enroll", "--server", "https://gateway.test:8443"); err == nil || !strings.HasPrefix(err.Error(), "HTTPS_PROXY: it must have the form") {
		t.Errorf("a wrong URL: %v", err)
	} else {
		h2.noSecret(err.Error())
	}
}

// noSecret looks at what everybody may read.
func (h *host) noSecret(texts ...string) {
	h.t.Helper()
	for _, text := range append(texts, h.read(h.config)) {
		if strings.Contains(text, secret) || strings.Contains(text, "open%2Fsesame") {
			h.t.Errorf("the password is in %q", text)
		}
	}
}

func TestTheProxyForPodman(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	login, output := h.write("login", "device:"+secret), filepath.Join(h.dir, "conf")
	conf := func() string {
		t.Helper()
		if out, err := h.run("", "podman-proxy", "--output", output); err != nil || out != "" {
			t.Fatal(out, err)
		}
		if info, err := os.Stat(output); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("its mode is %v, %v", info.Mode(), err)
		}
		return h.read(output)
	}
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\nproxy: {url: 'http://proxy.test:3128', noProxy: [.near.test], credentialsFile: "+login+"}\n")
	want := "# Written by setup-user of fleet-agent, of its setting proxy.\n[engine]\n" +
		`env = ["HTTPS_PROXY=http://device:open%2Fsesame@proxy.test:3128", "HTTP_PROXY=http://device:open%2Fsesame@proxy.test:3128", "NO_PROXY=.near.test"]` + "\n"
	if diff := cmp.Diff(want, conf()); diff != "" {
		t.Error(diff)
	}
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\n")
	if got := conf(); got != "" {
		t.Errorf("without a proxy it holds %q", got)
	}
}

func TestTheEnvironmentOfTheService(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	file := h.write("default", "# HTTPS_PROXY=http://no.test:1\n;x=y\n\nHTTPS_PROXY=\"http://proxy.test:3128\"\n NO_PROXY = 'a.test,b.test' \nbroken\n")
	want := settings.Env{"HTTPS_PROXY=http://proxy.test:3128", "NO_PROXY=a.test,b.test"}
	env := ofService(file)
	if diff := cmp.Diff(want, env); diff != "" {
		t.Error(diff)
	}
	if env := ofService(filepath.Join(h.dir, "none")); env != nil {
		t.Errorf("a file that is not there has %v", env)
	}
	way, err := wayOut(config.Default(), env)
	if err != nil || way.String() != "http://proxy.test:3128 (HTTPS_PROXY)" || !way.IsSpare() || way.Covers("a.test:443") {
		t.Errorf("the environment names %v, %v", way, err)
	}
	cfg := config.Default()
	cfg.Proxy.URL = "http://other.test:1"
	if way, err := wayOut(cfg, env); err != nil || way.Address() != cfg.Proxy.URL || way.IsSpare() {
		t.Errorf("the configuration names %v, %v", way, err)
	}
	if way, err := wayOut(config.Default(), nil); way != nil || err != nil {
		t.Errorf("nobody names %v, %v", way, err)
	}
}

// TestDoctorAsksTheProxy: the device is behind it, and the proxy does not let it out.
func TestDoctorAsksTheProxy(t *testing.T) {
	t.Parallel()
	g, h := newGateway(t), newHost(t)
	p := behind(t, g)
	login := h.write("login", "device:"+secret)
	h.write("etc/agent.yaml", "stateDir: "+h.state+"\npodman: {socket: "+filepath.Join(h.dir, "podman.sock")+"}\n")
	if _, err := h.run(g.token, "enroll", "--server", "https://gateway.test:8443", "--name", "pi-1", "--proxy", p.URL(), "--proxy-credentials-file", login); err != nil {
		t.Fatal(err)
	}
	report := func() string {
		t.Helper()
		var out, errs bytes.Buffer
		_ = run(t.Context(), []string{"--config", h.config, "doctor"}, strings.NewReader(""), &out, &errs) // what it finds, besides
		if strings.Contains(out.String()+errs.String(), secret) {
			t.Errorf("the password is in %s", out.String())
		}
		return out.String()
	}
	says := func(what string) {
		t.Helper()
		text := report()
		for line := range strings.Lines(text) {
			if strings.Contains(line, " proxy ") && strings.Contains(line, what) {
				return
			}
		}
		t.Errorf("no line says %q:\n%s", what, text)
	}
	says("the proxy " + p.URL() + " (proxy.url) connects to gateway.test:8443")
	p.Hosts = nil
	says("the proxy " + p.URL() + " (proxy.url) cannot reach gateway.test:8443 (status 502)")
	h.write("login", "device:wrong")
	says("refuses the login (status 407): check user and password")
	if err := os.Chmod(login, 0o644); err != nil {
		t.Fatal(err)
	}
	h.write("login", "device:"+secret)
	p.Hosts = map[string]string{"gateway.test:8443": strings.TrimPrefix(g.url, "https://")}
	says("every account of this device can read the password of the proxy in " + login)
}
