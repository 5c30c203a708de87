// Package kube runs the Kubernetes API of package apiserver for tests: without a controller of
// fleet, and with nothing of fleet in it but its definitions.
package kube

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"fleet.nationtech.io/fleet/pkg/apis/crds"
	"fleet.nationtech.io/fleet/pkg/apiserver"
	"fleet.nationtech.io/fleet/pkg/apiserver/datastore"
	"fleet.nationtech.io/fleet/pkg/connlimit"
	"fleet.nationtech.io/fleet/pkg/handshake"
	"fleet.nationtech.io/fleet/pkg/pki"
	"fleet.nationtech.io/fleet/pkg/refusals"
)

const (
	startTimeout = time.Minute
	memory       = 64 << 20
)

// API is a running API.
type API struct {
	// Own is the server's own client, with all rights, Administrator one over TLS.
	Own, Administrator *rest.Config
	Store              *datastore.Datastore
}

// Start runs an API on real SQLite, in a directory of the test, until the end of the test.
func Start(t testing.TB) API {
	t.Helper()
	dir, now := t.TempDir(), time.Now()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	store, err := datastore.Open(dir, nil, slog.New(slog.DiscardHandler))
	must(err)
	t.Cleanup(store.Close)
	authorities, err := pki.Load(filepath.Join(dir, "pki"), now)
	must(err)
	serving, err := authorities.Serving("api", func() []string { return []string{"localhost", "127.0.0.1"} }, time.Now)
	must(err)
	encryption := filepath.Join(dir, "encryption.yaml")
	must(apiserver.EnsureEncryptionConfig(encryption))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s, err := apiserver.New(apiserver.Config{
		Listener:   connlimit.New(l, connlimit.Limits{Strangers: 100, OfHost: 50, OfSite: 50, Local: 50, Known: 50}, nil, log),
		Handshakes: handshake.NewGate(), Certificate: serving.GetCertificate, Refusals: refusals.New(refusals.API), Sizes: store.Sizes, Full: store.Full, Memory: memory,
		ClientCAs: authorities.Operator.PEM, Now: time.Now,
		EtcdEndpoint: store.Endpoint, EncryptionConfigFile: encryption,
		CRDs: crds.Documents(), Metrics: prometheus.NewRegistry(), Logger: log,
	})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		t.Fatalf("the API ended: %v", err)
	case <-time.After(startTimeout):
		t.Fatal("the API is not ready")
	}
	cert, key, err := authorities.IssueOperator("admin", []string{"system:masters"}, now, time.Hour)
	must(err)
	return API{Own: s.Loopback(), Store: store, Administrator: &rest.Config{
		Host: "https://" + l.Addr().String(), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: authorities.RootsPEM(), CertData: cert, KeyData: key},
	}}
}
