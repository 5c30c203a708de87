package main

import (
	"context"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/driver"
	"fleet.nationtech.io/fleet/pkg/agent/container/mirror"
	"fleet.nationtech.io/fleet/pkg/agent/credential"
	"fleet.nationtech.io/fleet/pkg/agent/link"
	"fleet.nationtech.io/fleet/pkg/agent/pace"
	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/podman"
)

// certsDirs are where podman looks for authorities of registries.
var certsDirs = []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}

// newMirror returns the mirror by which podman pulls, or nil where there is none: it is
// switched off, or this is no unit of systemd, whose podman would trust it.
func newMirror(p parts, connection *link.Link, credentials *credential.Manager) (*pullMirror, error) {
	runtimeDir := os.Getenv("RUNTIME_DIRECTORY")
	if p.cfg.Images.Direct || runtimeDir == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	mirrors, err := p.cfg.Images.MirrorsOf()
	if err != nil {
		return nil, err
	}
	limits, err := pace.Parse(p.cfg.Images.Bandwidth)
	if err != nil {
		return nil, err
	}
	m, err := mirror.New(mirror.Config{
		Podman: &helper.Client{Socket: helper.Socket},
		Trust: func(registry string, certificate []byte) error {
			return trustRegistry(runtimeDir, func() string { return string(certificate) })(registry)
		},
		Gateway: connection, Roots: rootsOf(credentials), Prefer: hostOf(connection), Mirrors: mirrors, Proxy: p.way, Certs: certsDirs,
		Dir: filepath.Join(p.state.Dir(), "pulls"), Keep: int64(p.cfg.Images.ResumeMiB) << 20,
		Limits: limits, Transfers: p.cfg.Images.Transfers, Log: p.log.With("component", "mirror"),
	})
	if err != nil {
		return nil, err
	}
	return &pullMirror{m, authFile(p.cfg, p.configPath)}, nil
}

func rootsOf(credentials *credential.Manager) func() *x509.CertPool {
	return func() *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(credentials.Identity().Root))
		return pool
	}
}

// hostOf is the host of the server that a connection is to; empty for none.
func hostOf(connection *link.Link) func() string {
	return func() string {
		text, err := connection.Server()
		if err != nil {
			return ""
		}
		u, err := url.Parse(text)
		if err != nil {
			return ""
		}
		return u.Hostname()
	}
}

// pullMirror is a mirror as the driver of containers knows it.
type pullMirror struct {
	*mirror.Mirror

	authFile string
}

// Serve implements driver.Mirror.
func (m *pullMirror) Serve(wanted func() []string) { m.Wanted = wanted }

// Begin implements driver.Mirror.
func (m *pullMirror) Begin(ctx context.Context, image string, login *container.Login, room func(ctx context.Context, bytes int64) error) (driver.Transfer, error) {
	if registry, _, _ := strings.Cut(image, "/"); mirror.IsHere(registry) {
		return nil, nil //nolint:nilnil // podman has no long way to it
	}
	logins := podman.Logins(m.authFile)
	if login != nil {
		if logins == nil {
			logins = map[string]container.Login{}
		}
		logins[login.Registry] = *login
	}
	t, err := m.Mirror.Begin(ctx, image, logins)
	if err != nil {
		return nil, err
	}
	t.Room = room
	return t, nil
}
