package link_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/agent/proxy/proxytest"
	"fleet.nationtech.io/fleet/test/wait"
)

// TestThroughAProxy: only the proxy knows where the gateway is.
func TestThroughAProxy(t *testing.T) {
	t.Parallel()
	b := newBus(t, newPKI(t), -1)
	gateway, password := "gateway.test:4222", filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(password, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("device:old")
	p := proxytest.Start(t)
	p.User, p.Password, p.Hosts = "device", "new", map[string]string{gateway: b.srv.Addr().String()}
	way, err := proxy.New(proxy.Settings{URL: p.URL(), CredentialsFile: password})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.Open(link.Config{Device: device, Servers: []string{"tls://" + gateway}, Credentials: b.fixed(), Log: discard, Proxy: way})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	says := func(want string) func() error {
		return func() error {
			url, err := l.Server()
			if want == "" && url == "tls://"+gateway {
				return nil
			}
			if want != "" && err != nil && strings.Contains(err.Error(), want) && !errors.Is(err, link.ErrBusy) && !errors.Is(err, link.ErrRefused) {
				return nil
			}
			return errors.Join(errors.New("connected to "+url), err)
		}
	}
	wait.For(t, "the link says what is wrong", 10*time.Second, 10*time.Millisecond, says("refuses the login (status 407)"))
	write("device:new")
	wait.For(t, "the link takes the new password", 10*time.Second, 10*time.Millisecond, says(""))
	p.Cut()
	wait.For(t, "the link comes back", 10*time.Second, 10*time.Millisecond, func() error {
		select {
		case <-l.Connected():
			return says("")()
		default:
			return errors.New("not yet")
		}
	})
	if diff := cmp.Diff([]string{gateway}, p.Asked()); diff != "" {
		t.Error(diff)
	}
}

// TestAProxyThatHangsUp is none that refuses the device, or a server that is busy.
func TestAProxyThatHangsUp(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	way, err := proxy.New(proxy.Settings{URL: "http://" + listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	pki := newPKI(t)
	credentials := newChanging(pki)
	l, err := link.Open(link.Config{Device: device, Servers: []string{"tls://gateway.test:4222"}, Credentials: credentials, Log: discard, Proxy: way})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	attempted := <-credentials.attempts
	if _, ok := errors.AsType[*proxy.Error](attempted); !ok || errors.Is(attempted, link.ErrBusy) || errors.Is(attempted, link.ErrRefused) {
		t.Errorf("the attempt ended with %v", attempted)
	}
}
