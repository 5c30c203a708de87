package mirror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cuelabs.dev/go/oci/ociregistry/ociauth"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
)

const (
	// stall is how long a registry may send nothing.
	stall = time.Minute
	// dialTimeout bounds a connection, and its TLS.
	dialTimeout = 20 * time.Second
	// dockerHubHost is where docker.io is.
	dockerHubHost = "registry-1.docker.io"
	// maxText bounds what an error repeats of another.
	maxText = 200
)

// way is a place that an image can be had from.
type way struct {
	// called is how errors call it.
	called string
	base   string // https://HOST[:PORT]
	// repository is how it is called there.
	repository string
	client     *http.Client
}

// ways returns the places that an image can be had from, in order: mirrors, the gateway, the
// registry itself.
func (m *Mirror) ways(ctx context.Context, n name, logins map[string]container.Login) (all []*way) {
	for _, base := range m.Mirrors[n.registry] {
		at := strings.TrimPrefix(strings.TrimPrefix(base, "https://"), "http://")
		all = append(all, m.way("the mirror "+at, base, n.repository, logins[at], nil))
	}
	gateway, own := m.gateway(ctx, n)
	if gateway != nil {
		all = append(all, gateway)
	}
	if own {
		return all
	}
	host := n.registry
	if host == dockerHub {
		host = dockerHubHost
	}
	return append(all, m.way("the registry "+n.registry, "https://"+host, n.repository, logins[n.registry], nil))
}

// gateway is the way by the gateway, nil for none. own: the image is the gateway's.
func (m *Mirror) gateway(ctx context.Context, n name) (w *way, own bool) {
	if m.Gateway == nil {
		return nil, false
	}
	reply, err := m.Gateway.Registry(ctx)
	if err != nil || len(reply.Registries) == 0 {
		return nil, false
	}
	login := func(registry string) container.Login {
		return container.Login{Registry: registry, User: reply.User, Password: reply.Password}
	}
	if slices.Contains(reply.Registries, n.registry) {
		return m.way("the gateway "+n.registry, "https://"+n.registry, n.repository, login(n.registry), m.Roots()), true
	}
	if !slices.Contains(reply.Upstreams, n.registry) {
		return nil, false
	}
	at := reply.Registries[0]
	for _, registry := range reply.Registries {
		if host, _, err := net.SplitHostPort(registry); err == nil && m.Prefer != nil && host == m.Prefer() {
			at = registry
		}
	}
	return m.way("the gateway "+at, "https://"+at, alias(n.registry)+"/"+n.repository, login(at), m.Roots()), false
}

// way makes a way. Without roots, those of the system and of podman count.
func (m *Mirror) way(called, base, repository string, login container.Login, roots *x509.CertPool) *way {
	at, _ := url.Parse(base) // valid, or every request fails
	if roots == nil && at != nil {
		roots = m.rootsFor(at.Host)
	}
	transport := &http.Transport{
		DialContext:           m.Proxy.Dialer(&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: stall, MaxIdleConnsPerHost: 2,
	}
	auth := ociauth.NewStdTransport(ociauth.StdTransportParams{Config: loginFor{at, login}, Transport: transport})
	return &way{called: called, base: base, repository: repository, client: &http.Client{Transport: closing{auth, transport}}}
}

// closing lets a client close the connections below a login.
type closing struct {
	http.RoundTripper

	below *http.Transport
}

// CloseIdleConnections implements what http.Client looks for.
func (c closing) CloseIdleConnections() { c.below.CloseIdleConnections() }

// loginFor is a login for one place: a registry that sends elsewhere does not take it along.
type loginFor struct {
	at    *url.URL
	login container.Login
}

// EntryForRegistry implements ociauth.Config.
func (l loginFor) EntryForRegistry(host string) (ociauth.ConfigEntry, error) {
	if l.at == nil || host != l.at.Host {
		return ociauth.ConfigEntry{}, nil
	}
	return ociauth.ConfigEntry{Username: l.login.User, Password: l.login.Password}, nil
}

// rootsFor are the authorities of the system, and those that podman has for a registry; nil
// for those of the system alone.
func (m *Mirror) rootsFor(host string) *x509.CertPool {
	var pool *x509.CertPool
	for _, dir := range m.Certs {
		files, _ := filepath.Glob(filepath.Join(dir, host, "*.crt"))
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			if pool == nil {
				if pool, err = x509.SystemCertPool(); err != nil {
					pool = x509.NewCertPool()
				}
			}
			pool.AppendCertsFromPEM(data)
		}
	}
	return pool
}

// get asks for something. The caller closes the body.
func (w *way) get(ctx context.Context, path string, header http.Header) (*http.Response, error) {
	ctx = ociauth.ContextWithRequestInfo(ctx, ociauth.RequestInfo{RequiredScope: ociauth.NewScope(ociauth.ResourceScope{ResourceType: ociauth.TypeRepository, Resource: w.repository, Action: ociauth.ActionPull})})
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+"/v2/"+w.repository+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %s has no address", ErrUnavailable, w.called)
	}
	for key, values := range header {
		r.Header[key] = values
	}
	response, err := w.client.Do(r)
	if err != nil {
		return nil, w.explain(err)
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	said, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	_ = response.Body.Close()
	return nil, w.status(response.StatusCode, string(said))
}

// status says what an answer means.
func (w *way) status(code int, said string) error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		if strings.Contains(said, "no Deployment of device") {
			return fmt.Errorf("%w: %s gives this device only images that its Deployments name", ErrRefused, w.called)
		}
		return fmt.Errorf("%w: %s refuses %s (status %d): check the login (imagePullSecrets of the Deployment, or auth.json on the device) and the name", ErrRefused, w.called, w.repository, code)
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s has none of that name and tag (manifest unknown)", ErrNotFound, w.called)
	case http.StatusTooManyRequests:
		return fmt.Errorf("%w: %s says that this device asks too often (status 429): wait, or use a login", ErrUnavailable, w.called)
	}
	return fmt.Errorf("%w: %s answers with status %d", ErrUnavailable, w.called, code)
}

// explain says in one line why a place could not be asked.
func (w *way) explain(err error) error {
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: the certificate of %s is not trusted (%s): put its authority into /etc/containers/certs.d/%s/ca.crt on the device, or check the device's clock",
			ErrUnavailable, w.called, clip(bad.Err), strings.TrimPrefix(w.base, "https://"))
	}
	if problem, ok := errors.AsType[*proxy.Error](err); ok {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, w.called, problem)
	}
	if at, ok := errors.AsType[*url.Error](err); ok { // whose address may have a signature in it
		err = at.Err
	}
	return fmt.Errorf("%w: %s: %s", ErrUnavailable, w.called, clip(err))
}

func clip(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	return text[:min(len(text), maxText)]
}

// blob opens a blob of a size at an offset, or before it: it returns where.
func (w *way) blob(ctx context.Context, digest string, size, offset int64) (io.ReadCloser, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	response, err := w.get(ctx, "/blobs/"+digest, header)
	if err != nil {
		cancel()
		return nil, 0, err
	}
	content := &watched{response.Body, time.AfterFunc(stall, cancel), cancel}
	if response.StatusCode != http.StatusPartialContent {
		return content, 0, nil
	}
	var begins, last, whole int64
	if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-%d/%d", &begins, &last, &whole); err != nil || begins < 0 || begins > offset || whole != size {
		_ = content.Close()
		return nil, 0, fmt.Errorf("%w: %s sends another part than it was asked for", ErrUnavailable, w.called)
	}
	return content, begins, nil
}

// watched ends a body that brings nothing for too long. Time in which nobody reads does not
// count.
type watched struct {
	io.ReadCloser

	timer  *time.Timer
	cancel context.CancelFunc
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(stall)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	return n, err //nolint:wrapcheck // io.EOF among them
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel()
	return w.ReadCloser.Close()
}
