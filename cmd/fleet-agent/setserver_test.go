package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/config"
	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
	"fleet.nationtech.io/fleet/pkg/agent/store"
)

// bus answers as NATS of a gateway does, as far as who it is goes. refuses ends the
// connections of devices.
func (g *gateway) bus(t *testing.T, host string, refuses bool) (url string) {
	t.Helper()
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{g.certificate}, ClientAuth: tls.RequireAnyClientCert}
	if refuses {
		cfg.VerifyConnection = func(tls.ConnectionState) error { return errors.New("who is that") }
	}
	raw, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := tls.NewListener(raw, cfg)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "INFO {}\r\n") // the handshake shows who it is
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	_, port, err := net.SplitHostPort(raw.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "tls://" + net.JoinHostPort(host, port)
}

func TestSetServer(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	if _, err := h.run(g.token, "enroll", "--server", g.url, "--name", "pi-1"); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	here, gone := g.bus(t, "127.0.0.1", false), "tls://127.0.0.1:1"
	for name, tt := range map[string]struct {
		args []string
		want error
		text string
	}{
		"nobody is there":      {[]string{here, gone}, nil, "nothing was changed: " + gone + ": dial tcp 127.0.0.1:1: connect: connection refused"},
		"another fleet":        {[]string{newGateway(t).bus(t, "127.0.0.1", false)}, doctor.ErrAnotherFleet, "fleet-agent enroll --force"},
		"another name":         {[]string{g.bus(t, "localhost", false)}, doctor.ErrName, "tlsSANs"},
		"it refuses":           {[]string{g.bus(t, "127.0.0.1", true)}, doctor.ErrRefused, "it refuses this device"},
		"no time":              {[]string{here, g.url}, nil, "nothing was changed: " + g.url + ": asking "},
		"not of NATS":          {[]string{"nats://a:4222"}, nil, `server.urls[0]: "nats://a:4222" is not of the form tls://HOST:4222`},
		"only certificates":    {[]string{"https://a:8443"}, nil, "give the address of the connection, too: tls://HOST:4222"},
		"two for certificates": {[]string{here, "https://a:8443", "https://b:8443"}, nil, "there is one address for certificates"},
		"a path":               {[]string{here, "https://a:8443/x"}, nil, "https://HOST:8443"},
		"many":                 {strings.Fields(strings.Repeat(here+" ", 17)), nil, "16 addresses at most"},
	} {
		_, err := h.run("", append([]string{"set-server"}, tt.args...)...)
		if err == nil || !strings.Contains(err.Error(), tt.text) || tt.want != nil && !errors.Is(err, tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, err := os.ReadFile(h.config); err != nil || string(after) != string(before) {
		t.Errorf("agent.yaml was changed: %s, %v", after, err)
	}

	out, err := h.run("", "set-server", here)
	if err != nil || out != "the server is at "+here+" now; the agent does not run\n" {
		t.Fatalf("%q: %v", out, err)
	}
	expectServers(t, h, here)
	previous, err := os.ReadFile(h.config + ".previous")
	if err != nil || string(previous) != string(before) {
		t.Errorf("kept %s: %v", previous, err)
	}
	if after, err := os.ReadFile(h.config); err != nil || !strings.Contains(string(after), "# by hand") {
		t.Errorf("comments are gone: %s, %v", after, err)
	}

	// Not there yet, and the address for certificates, too.
	if _, err := h.run("", "set-server", "--force", gone, "HTTPS://New.example.com:8443/"); err != nil {
		t.Fatal(err)
	}
	expectServers(t, h, gone)
	identity, err := store.View(h.state, nil).Identity()
	if err != nil || identity.Server != "https://new.example.com:8443" || !identity.Enrolled() {
		t.Errorf("identity %+v: %v", identity, err)
	}
}

func expectServers(t *testing.T, h *host, urls ...string) {
	t.Helper()
	cfg, err := config.Load(h.config, true, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(urls, cfg.Server.URLs); diff != "" {
		t.Error(diff)
	}
}

// A running agent takes the addresses when it starts anew.
func TestSetServerTellsTheAgent(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.answer(&agentStub{status: control.Status{}})
	told := filepath.Join(h.dir, "told")
	want := "the agent was restarted"
	if os.Geteuid() != 0 {
		want = "restart the agent: systemctl restart fleet-agent"
	}
	m := move{restart: []string{"touch", told}}
	if got := m.tell(context.Background(), h.state); got != want {
		t.Errorf("says %q", got)
	}
	if _, err := os.Stat(told); (err == nil) != (os.Geteuid() == 0) {
		t.Errorf("the command: %v", err)
	}
	m.restart = []string{"false"}
	if got := m.tell(context.Background(), h.state); !strings.HasPrefix(got, "restart the agent") {
		t.Errorf("says %q", got)
	}
	if _, err := newHost(t).run("", "set-server", "tls://a:4222"); !errors.Is(err, store.ErrNoIdentity) {
		t.Errorf("a device that is not enrolled: %v", err)
	}
}
