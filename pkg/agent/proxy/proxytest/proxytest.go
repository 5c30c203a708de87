// Package proxytest has a real HTTP proxy for tests, which does nothing but CONNECT.
package proxytest

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
)

// Proxy is a proxy that runs. The fields may be set before it is asked.
type Proxy struct {
	// User and Password are what it wants; empty for no login.
	User, Password string
	// Hosts are addresses, HOST:PORT, that it reaches elsewhere. Others it cannot
	// reach.
	Hosts map[string]string
	// Reach takes the place of Hosts; may be nil.
	Reach func(ctx context.Context, address string) (net.Conn, error)

	listener net.Listener
	mu       sync.Mutex // guards asked and conns
	asked    []string
	conns    map[net.Conn]struct{}
	parts    sync.WaitGroup
}

// Start starts a proxy on a port of the host.
func Start(t testing.TB) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{}
	p.Serve(listener)
	t.Cleanup(p.Close)
	return p
}

// Serve answers what comes to a listener until Close.
func (p *Proxy) Serve(listener net.Listener) {
	p.listener, p.conns = listener, map[net.Conn]struct{}{}
	server := &http.Server{Handler: p} //nolint:gosec // it is for tests
	p.parts.Go(func() { _ = server.Serve(listener) })
}

// Close ends the proxy with all of its connections.
func (p *Proxy) Close() {
	_ = p.listener.Close()
	p.Cut()
	p.parts.Wait()
}

// Cut ends the connections that go through the proxy.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}

// Address is HOST:PORT.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// URL is what a setting names.
func (p *Proxy) URL() string { return "http://" + p.Address() }

// Asked are the addresses that were asked for with the right login, sorted, each
// once.
func (p *Proxy) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(p.asked)))
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if p.User != "" && !p.admits(r) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, r.Host)
	p.mu.Unlock()
	there, err := p.dial(r.Context(), r.Host)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	here, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		_ = there.Close()
		return
	}
	if _, err := io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil {
		p.join(here, there)
	}
	_ = here.Close()
	_ = there.Close()
}

func (p *Proxy) admits(r *http.Request) bool {
	// What a client says to a proxy has the form of what it says to a server.
	user, password, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
	return ok && user == p.User && password == p.Password
}

func (p *Proxy) dial(ctx context.Context, address string) (net.Conn, error) {
	if p.Reach != nil {
		return p.Reach(ctx, address)
	}
	to, ok := p.Hosts[address]
	if !ok {
		return nil, net.UnknownNetworkError(address)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to)
}

// join passes bytes on until one side ends.
func (p *Proxy) join(a, b net.Conn) {
	p.mu.Lock()
	p.conns[a], p.conns[b] = struct{}{}, struct{}{}
	p.mu.Unlock()
	done := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		done <- struct{}{}
	}
	go pass(a, b)
	go pass(b, a)
	<-done
	_ = a.Close()
	_ = b.Close()
	<-done
	p.mu.Lock()
	delete(p.conns, a)
	delete(p.conns, b)
	p.mu.Unlock()
}
