// Package mirror fetches images for podman. It is a registry on the device's loopback, which
// podman is told to ask first: podman itself says nothing of how far a pull is, begins a layer
// anew when it was interrupted, and takes all the bandwidth there is.
//
// Each pull has a credential of its own, since any account of the device reaches loopback, and
// the certificate is of this process alone: whoever takes the port later is nobody.
package mirror

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/semaphore"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/pace"
	"fleet.nationtech.io/fleet/pkg/agent/proxy"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// Errors of a pull; match them with errors.Is. Their text has one line, and says what to do.
var (
	// ErrNotFound: no place has the image.
	ErrNotFound = errors.New("no such image")
	// ErrRefused: a registry does not give it to this device.
	ErrRefused = errors.New("refused by the registry")
	// ErrUnavailable: a registry cannot be reached, or does not send what it says.
	ErrUnavailable = errors.New("the registry cannot be reached")
)

const (
	// settle is how long podman is given to learn of a registry.
	settle = 300 * time.Millisecond
	// headerTimeout bounds how long a request takes to say what it is for, and the next one to
	// come.
	headerTimeout = 10 * time.Second
	// maxConnections bounds the connections of all accounts of the device.
	maxConnections = 64
)

// Podman lets podman of the workloads' account ask a mirror.
type Podman interface {
	// Mirror makes an address, HOST:PORT, the mirror of registries, and reports whether that
	// is a change, which podman learns of shortly after.
	Mirror(ctx context.Context, address string, registries []string) (changed bool, err error)
}

// Gateway gives credentials of the fleet's image registry.
type Gateway interface {
	Registry(ctx context.Context) (*wire.RegistryReply, error)
}

// Config is what a Mirror is made of.
type Config struct {
	Podman Podman
	// Trust makes podman trust a certificate in PEM for a registry of a name, HOST:PORT.
	Trust func(registry string, certificate []byte) error
	// Gateway is nil for none; Roots are the authorities of its certificate, and Prefer is the
	// host of the server that the device is connected to.
	Gateway Gateway
	Roots   func() *x509.CertPool
	Prefer  func() string
	// Mirrors are base URLs by registry, which are asked in order before the registry.
	Mirrors map[string][]string
	// Proxy is the way to all of them.
	Proxy *proxy.Proxy
	// Certs are directories as of podman's certs.d.
	Certs []string
	// Dir has what interrupted transfers brought, of at most Keep bytes.
	Dir  string
	Keep int64
	// Limits bound the bandwidth.
	Limits pace.Limits
	// Transfers is how many layers are fetched at a time.
	Transfers int
	// Wanted are the names of the images that Deployments want now; nil for none. It may be
	// set until the first Begin.
	Wanted func() []string
	Log    *slog.Logger
}

// Mirror is the registry. Make it with New.
type Mirror struct {
	Config

	listener net.Listener
	web      *http.Server
	slots    *semaphore.Weighted
	pace     *pace.Pace
	parts    *parts

	// telling is held while podman is told of registries. registries are those that it was
	// told of, the oldest first; telling guards them.
	telling    *semaphore.Weighted
	registries []string

	mu sync.Mutex // guards what follows
	// transfers are the pulls under way, by id.
	transfers map[string]*Transfer
}

// New listens on loopback, and makes podman trust that.
func New(c Config) (*Mirror, error) {
	certificate, pem, err := selfSigned()
	if err != nil {
		return nil, err
	}
	kept, err := newParts(c.Dir, c.Keep)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for podman: %w", err)
	}
	m := &Mirror{
		Config: c, slots: semaphore.NewWeighted(int64(max(1, c.Transfers))), pace: pace.New(c.Limits), parts: kept, transfers: map[string]*Transfer{}, telling: semaphore.NewWeighted(1),
		listener: tls.NewListener(netutil.LimitListener(listener, maxConnections), &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}),
	}
	if err := c.Trust(m.Address(), pem); err != nil {
		_ = listener.Close()
		return nil, err
	}
	m.web = &http.Server{Handler: http.HandlerFunc(m.serve), ReadHeaderTimeout: headerTimeout, IdleTimeout: headerTimeout, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug)}
	return m, nil
}

// Address is HOST:PORT.
func (m *Mirror) Address() string { return m.listener.Addr().String() }

// Run serves until ctx ends.
func (m *Mirror) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = m.web.Close() })
	defer stop()
	if err := m.web.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving podman: %w", err)
	}
	return nil
}

// Begin begins a pull of an image. The caller ends the Transfer. logins are those that the
// device has, by registry.
func (m *Mirror) Begin(ctx context.Context, image string, logins map[string]container.Login) (*Transfer, error) {
	n, err := parseName(image)
	if err != nil {
		return nil, err
	}
	if err := m.tell(ctx, n.registry); err != nil {
		return nil, err
	}
	t := &Transfer{
		mirror: m, name: n, id: random(), secret: random(),
		sizes: map[string]int64{}, brought: map[string]int64{}, begun: time.Now(),
	}
	t.context, t.cancel = context.WithCancel(context.Background())
	t.ways = m.ways(ctx, n, logins)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.transfers[t.id] = t
	return t, nil
}

func random() string {
	secret := make([]byte, 16)
	rand.Read(secret) // never fails
	return hex.EncodeToString(secret)
}

// end forgets a transfer.
func (m *Mirror) end(t *Transfer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.transfers, t.id)
}

// transferOf returns the pull that a request is of, which waits for it to be answered.
func (m *Mirror) transferOf(r *http.Request) *Transfer {
	id, secret, _ := r.BasicAuth()
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.transfers[id]
	if t == nil || subtle.ConstantTimeCompare([]byte(secret), []byte(t.secret)) != 1 {
		return nil
	}
	t.requests.Add(1) // no later than its end
	return t
}

func (m *Mirror) serve(w http.ResponseWriter, r *http.Request) {
	t := m.transferOf(r)
	if t == nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="fleet-agent"`)
		w.Header().Set("Connection", "close") // every account of the device may ask
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "each pull of fleet-agent has its own login")
		return
	}
	defer t.requests.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(t.context, func() {
		cancel()
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now()) // podman may not read
	})()
	r = r.WithContext(ctx)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
		return
	}
	if r.URL.Path == "/v2/" {
		return
	}
	path, ours := strings.CutPrefix(r.URL.Path, "/v2/"+alias(t.name.registry)+"/"+t.name.repository+"/")
	kind, reference, _ := strings.Cut(path, "/")
	switch {
	case ours && kind == "manifests" && referenceForm.MatchString(reference):
		t.manifest(w, r, reference)
	case ours && kind == "blobs" && digestForm.MatchString(reference):
		t.blob(w, r, reference)
	default:
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "the pull is of another image")
	}
}

// refuse answers as registries do.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}
