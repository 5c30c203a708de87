package cache

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
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// stall is how long a registry may send nothing.
	stall = time.Minute
	// lookTimeout bounds a question for a manifest.
	lookTimeout = 2 * time.Minute
	// maxClients bounds the logins that are remembered.
	maxClients = 256

	dockerHub = "docker.io"
	// dockerHubIndex is what the library calls it.
	dockerHubIndex = "index.docker.io"
)

// upstream is another registry.
type upstream struct {
	name string // HOST or HOST:PORT
	// alias is how repositories here begin that are its.
	alias    string
	plain    bool
	registry name.Registry
	authFile string
	base     http.RoundTripper

	mu      sync.Mutex // guards what follows
	clients map[string]*http.Client
}

// host is what a registry may be called: a name with a dot, or anything with a port, so that
// nobody takes it for a repository of the gateway's own.
var host = regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)*(:[0-9]{1,5})?$`)

// Check returns an error unless a text names a registry, as in Config.Upstreams.
func Check(text string) error {
	_, err := newUpstream(text, "", nil)
	return err
}

func newUpstream(text, authFile string, base http.RoundTripper) (*upstream, error) {
	called, plain := strings.CutPrefix(text, "http://")
	if called == dockerHubIndex {
		called = dockerHub
	}
	if !host.MatchString(called) || !strings.ContainsAny(called, ".:") {
		return nil, fmt.Errorf("%.200q is no registry: it must have the form HOST or HOST:PORT, such as docker.io, or http://HOST:PORT for one without TLS", text)
	}
	options := []name.Option{name.StrictValidation}
	if plain {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(called, options...)
	if err != nil {
		return nil, fmt.Errorf("%.200q is no registry: %w", text, err)
	}
	return &upstream{
		name: called, alias: strings.ReplaceAll(called, ":", "__"), plain: plain, registry: registry,
		authFile: authFile, base: base, clients: map[string]*http.Client{},
	}, nil
}

func (u *upstream) String() string { return u.name }

func (u *upstream) is(registry string) bool {
	return registry == u.name || registry == dockerHubIndex && u.name == dockerHub
}

func newTransport() http.RoundTripper {
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 20 * time.Second}).DialContext, TLSHandshakeTimeout: 20 * time.Second,
		ResponseHeaderTimeout: stall, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
	}
}

func (u *upstream) close() {
	if t, ok := u.base.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// errPlain: without TLS anybody on the way could give tags to images of its own.
var errPlain = errors.New("it wants to go on without TLS")

// encrypted refuses requests without TLS.
type encrypted struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (e encrypted) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, errPlain
	}
	return e.RoundTripper.RoundTrip(r)
}

// client returns a client that may read a repository.
func (u *upstream) client(ctx context.Context, repository string) (*http.Client, error) {
	login, err := u.login()
	if err != nil {
		return nil, err
	}
	auth, err := login.Authorization()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	key := repository + "\x00" + auth.Username + "\x00" + auth.Password
	u.mu.Lock()
	known := u.clients[key]
	u.mu.Unlock()
	if known != nil {
		return known, nil
	}
	base := u.base
	if !u.plain {
		base = encrypted{base}
	}
	scope := u.registry.Repo(repository).Scope(transport.PullScope)
	t, err := transport.NewWithContext(ctx, u.registry, login, base, []string{scope})
	if err != nil {
		return nil, u.explain(err, repository)
	}
	made := &http.Client{Transport: t}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.clients) >= maxClients {
		clear(u.clients)
	}
	u.clients[key] = made
	return made, nil
}

func (u *upstream) login() (authn.Authenticator, error) {
	login, err := readLogin(u.authFile, u.name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return login, nil
}

// get asks for something of a repository. The caller closes the body.
func (u *upstream) get(ctx context.Context, method, repository, path string, header http.Header) (*http.Response, error) {
	client, err := u.client(ctx, repository)
	if err != nil {
		return nil, err
	}
	address := u.registry.Scheme() + "://" + u.registry.RegistryStr() + "/v2/" + repository + path
	if !u.plain {
		address = "https://" + u.registry.RegistryStr() + "/v2/" + repository + path
	}
	request, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, u.explain(err, repository)
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	_ = response.Body.Close()
	return nil, u.status(response.StatusCode, repository)
}

// status says what an answer means.
func (u *upstream) status(code int, repository string) error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %s does not let this gateway have %s (status %d): check the login in imageAuthFile of the gateway, and the name of the image", ErrRefused, u, repository, code)
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s has none of that name in %s", ErrUnknown, u, repository)
	case http.StatusTooManyRequests:
		return fmt.Errorf("%w: %s says that this gateway asks too often (status 429): wait, or give the gateway a login in imageAuthFile", ErrUnavailable, u)
	}
	return fmt.Errorf("%w: %s answers with status %d", ErrUnavailable, u, code)
}

// explain says in one line why a registry could not be asked.
func (u *upstream) explain(err error, repository string) error {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return u.status(answer.StatusCode, repository)
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("%w: the certificate of %s is not trusted: %v: add its authority to those of the gateway (update-ca-certificates)", ErrUnavailable, u, bad.Err)
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w: the certificate of %s is not trusted: %v: add its authority to those of the gateway (update-ca-certificates)", ErrUnavailable, u, unknown)
	}
	if at, ok := errors.AsType[*url.Error](err); ok { // whose address may have a signature in it
		err = at.Err
	}
	return fmt.Errorf("%w: %s: %.200s", ErrUnavailable, u, strings.Join(strings.Fields(err.Error()), " "))
}

// kinds are the types of manifests and indexes that devices understand.
var kinds = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// resolve returns the digest that a tag stands for, with the manifest when it came, too.
func (u *upstream) resolve(ctx context.Context, repository, tag string) (v1.Hash, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	response, err := u.get(ctx, http.MethodHead, repository, "/manifests/"+tag, http.Header{"Accept": kinds})
	if err == nil {
		_ = response.Body.Close()
		if digest, err := v1.NewHash(response.Header.Get("Docker-Content-Digest")); err == nil && digest.Algorithm == "sha256" {
			return digest, nil, nil
		}
	}
	if err != nil && !errors.Is(err, ErrUnavailable) {
		return v1.Hash{}, nil, err
	}
	// Not every registry says it without the manifest.
	data, err := u.manifest(ctx, repository, tag)
	if err != nil {
		return v1.Hash{}, nil, err
	}
	return digestOf(data), data, nil
}

// manifest returns a manifest by tag or digest.
func (u *upstream) manifest(ctx context.Context, repository, reference string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	response, err := u.get(ctx, http.MethodGet, repository, "/manifests/"+reference, http.Header{"Accept": kinds})
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxManifest+1))
	if err != nil {
		return nil, u.explain(err, repository)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("%w: the manifest that %s sends has more than %d bytes", ErrUnavailable, u, maxManifest)
	}
	return data, nil
}

// blob opens a blob at an offset, or at its beginning where the registry cannot do that.
func (u *upstream) blob(ctx context.Context, repository string, d v1.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	response, err := u.get(ctx, http.MethodGet, repository, "/blobs/"+d.Digest.String(), header)
	if err != nil {
		cancel()
		return nil, 0, err
	}
	content := watch(response.Body, cancel)
	if response.StatusCode != http.StatusPartialContent {
		return content, 0, nil
	}
	var begins, last, size int64
	if _, err := fmt.Sscanf(response.Header.Get("Content-Range"), "bytes %d-%d/%d", &begins, &last, &size); err != nil || begins < 0 || begins > offset || size != d.Size {
		_ = content.Close()
		return nil, 0, fmt.Errorf("%w: %s sends another part than it was asked for", ErrUnavailable, u)
	}
	return content, begins, nil
}

// watched ends a body that brings nothing for too long.
type watched struct {
	io.ReadCloser

	timer  *time.Timer
	cancel context.CancelFunc
}

func watch(body io.ReadCloser, cancel context.CancelFunc) *watched {
	return &watched{body, time.AfterFunc(stall, cancel), cancel}
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.timer.Reset(stall)
	return n, err //nolint:wrapcheck // io.EOF among them
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel()
	return w.ReadCloser.Close()
}
