package integration_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"fleet.nationtech.io/fleet/pkg/client"
	"fleet.nationtech.io/fleet/pkg/embedserver"
)

// startTimeout is generous: it bounds a hang, it measures nothing.
const startTimeout = time.Minute

// server is a whole fleet-server in this process, on ports of its own.
type server struct {
	t      testing.TB
	config embedserver.Config
	cancel context.CancelFunc
	done   chan error
	ready  embedserver.Ready
	// api, root and enroll are those of an operator beside an existing Kubernetes; else they
	// are zero.
	api    *rest.Config
	root   *x509.Certificate
	enroll string
}

// newServer starts a server in a directory of the test and stops it at the end.
func newServer(t testing.TB, change ...func(*embedserver.Config)) *server {
	t.Helper()
	s := &server{t: t, config: embedserver.Config{
		DataDir: t.TempDir(), APIListen: address(t), NATSListen: address(t), EnrollListen: address(t),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	for _, c := range change {
		c(&s.config)
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

// Ports of servers that start again. They lie below those that the kernel gives to
// connections: one of another test could have a server's port while it is stopped.
const firstPort, lastPort = 20000, 32000

var ports atomic.Int32

// address returns one that nobody listens on.
func address(t testing.TB) string {
	t.Helper()
	for range lastPort - firstPort {
		at := fmt.Sprintf("127.0.0.1:%d", firstPort+ports.Add(1)%(lastPort-firstPort))
		if l, err := net.Listen("tcp", at); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return at
		}
	}
	t.Fatal("every port is taken")
	return ""
}

// start starts the server, and again after stop, on the ports that it had.
func (s *server) start() {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan error, 1)
	ready := make(chan embedserver.Ready, 1)
	go func() {
		s.done <- embedserver.Run(ctx, s.config, func(a embedserver.Ready) { ready <- a })
	}()
	select {
	case s.ready = <-ready:
	case err := <-s.done:
		s.cancel = nil // there is nothing to stop
		s.t.Fatalf("the server ended: %v", err)
	case <-time.After(startTimeout):
		s.t.Fatal("the server is not ready")
	}
}

// stop stops the server; a second call does nothing.
func (s *server) stop() {
	s.t.Helper()
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.cancel = nil
	if err := <-s.done; err != nil {
		s.t.Errorf("stopping the server: %v", err)
	}
}

func (s *server) enrollURL() string {
	if s.enroll != "" {
		return s.enroll
	}
	_, port, _ := net.SplitHostPort(s.ready.Enroll.String())
	return "https://" + net.JoinHostPort("localhost", port)
}

func (s *server) rest() *rest.Config {
	s.t.Helper()
	if s.api != nil {
		return rest.CopyConfig(s.api)
	}
	c, err := clientcmd.BuildConfigFromFlags("", s.ready.Kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	c.QPS, c.Burst = -1, -1
	return c
}

// client is one of the API, by the server's clock.
func (s *server) client() *client.Client {
	s.t.Helper()
	config := s.rest()
	if wall := s.config.Clock.Wall; wall != nil {
		trust, err := rest.TLSConfigFor(config)
		if err != nil {
			s.t.Fatal(err)
		}
		trust.Time = wall
		transport := &http.Transport{TLSClientConfig: trust}
		s.t.Cleanup(transport.CloseIdleConnections)
		config = &rest.Config{Host: config.Host, QPS: -1, Transport: transport}
	}
	c, err := client.New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}
