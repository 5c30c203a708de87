package mirror_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/mirror"
	"fleet.nationtech.io/fleet/pkg/agent/pace"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// registry has one image, app:1 in a repository, with one layer.
type registry struct {
	*httptest.Server

	repository string
	layer      []byte
	manifest   []byte

	mu sync.Mutex // guards what follows
	// sent is what was sent of the layer.
	sent int
	// cut ends answers with the layer after so many bytes; zero for none.
	cut int
	// user and password are needed unless they are empty.
	user, password string
	noRanges, bad  bool
	// breaks: after the cut, every answer is a 503.
	breaks bool
	status int
	// layers is called for each request of the layer; nil for nobody.
	layers func()
}

func newRegistry(t testing.TB, repository string, layer []byte) *registry {
	t.Helper()
	r := &registry{repository: repository, layer: layer}
	r.manifest = fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":%d}]}`,
		digestOf([]byte("{}")), digestOf(layer), len(layer))
	r.Server = httptest.NewTLSServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *registry) set(f func(*registry)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

func (r *registry) host() string { return strings.TrimPrefix(r.URL, "https://") }

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if user, password, _ := q.BasicAuth(); user != r.user || password != r.password {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.status != 0 {
		w.WriteHeader(r.status)
		return
	}
	if r.noRanges {
		q.Header.Del("Range")
	}
	switch path := strings.TrimPrefix(q.URL.Path, "/v2/"+r.repository); path {
	case "/manifests/1", "/manifests/" + digestOf(r.manifest):
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write(r.manifest)
	case "/blobs/" + digestOf(r.layer):
		if r.layers != nil {
			r.layers()
		}
		content := r.layer
		if r.bad {
			content = bytes.Repeat([]byte{'x'}, len(content))
		}
		http.ServeContent(&sender{w, r}, q, "", time.Time{}, bytes.NewReader(content))
	default:
		http.NotFound(w, q)
	}
}

// sender counts and cuts. The registry is locked.
type sender struct {
	http.ResponseWriter

	r *registry
}

func (s *sender) Write(p []byte) (int, error) {
	if s.r.cut > 0 && len(p) > s.r.cut {
		p = p[:s.r.cut]
	}
	n, err := s.ResponseWriter.Write(p)
	s.r.sent += n
	if s.r.cut > 0 {
		if s.r.cut -= n; s.r.cut == 0 {
			if s.r.breaks {
				s.r.status = http.StatusServiceUnavailable
			}
			panic(http.ErrAbortHandler)
		}
	}
	return n, err
}

// podman is told of mirrors.
type podman struct {
	registries []string
	err        error
}

func (p *podman) Mirror(_ context.Context, _ string, registries []string) (bool, error) {
	p.registries = registries
	return false, p.err
}

type gateway struct{ wire.RegistryReply }

func (g gateway) Registry(context.Context) (*wire.RegistryReply, error) { return &g.RegistryReply, nil }

// device is a mirror and who pulls from it.
type device struct {
	*mirror.Mirror
	t      testing.TB
	podman podman
	client *http.Client
	dir    string
	certs  string
}

// newDevice starts a mirror that trusts registries.
func newDevice(t testing.TB, trusted []*registry, change ...func(*mirror.Config)) *device {
	t.Helper()
	d := &device{t: t, dir: t.TempDir(), certs: t.TempDir()}
	roots := x509.NewCertPool()
	for _, r := range trusted {
		must(t, os.MkdirAll(filepath.Join(d.certs, r.host()), 0o700))
		must(t, os.WriteFile(filepath.Join(d.certs, r.host(), "ca.crt"), pemOf(r.Certificate()), 0o600))
		roots.AddCert(r.Certificate())
	}
	own := x509.NewCertPool()
	c := mirror.Config{
		Podman: &d.podman, Trust: func(_ string, certificate []byte) error { own.AppendCertsFromPEM(certificate); return nil },
		Roots: func() *x509.CertPool { return roots }, Certs: []string{d.certs}, Dir: d.dir, Keep: 1 << 30, Transfers: 1, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	d.Mirror, err = mirror.New(c)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: own}}
	t.Cleanup(transport.CloseIdleConnections)
	d.client = &http.Client{Transport: transport}
	return d
}

func (d *device) get(login container.Login, path string, header ...string) (int, []byte, error) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, "https://"+d.Address()+path, nil)
	must(d.t, err)
	r.SetBasicAuth(login.User, login.Password)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := d.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, data, err
}

func (d *device) begin(r *registry, logins ...container.Login) *mirror.Transfer {
	d.t.Helper()
	all := map[string]container.Login{}
	for _, l := range logins {
		all[l.Registry] = l
	}
	t, err := d.Begin(d.t.Context(), r.host()+"/"+r.repository+":1", all)
	must(d.t, err)
	return t
}

func (d *device) at(r *registry) string {
	return "/v2/" + strings.ReplaceAll(r.host(), ":", "__") + "/" + r.repository
}

// pull fetches manifest and layer as podman does.
func (d *device) pull(t *mirror.Transfer, r *registry) (layer []byte, err error) {
	d.t.Helper()
	status, manifest, err := d.get(t.Login(), d.at(r)+"/manifests/1")
	if err != nil || status != http.StatusOK || !bytes.Equal(manifest, r.manifest) {
		return nil, fmt.Errorf("the manifest is %d %.200s: %w", status, manifest, errors.Join(err, t.Problem()))
	}
	status, layer, err = d.get(t.Login(), d.at(r)+"/blobs/"+digestOf(r.layer))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the layer is %d %.200s", status, layer)
	}
	return layer, err
}

func random(size int) []byte {
	data := make([]byte, size)
	chacha := rand.NewChaCha8([32]byte{})
	_, _ = chacha.Read(data)
	return data
}

func TestAPullByTheRegistry(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "team/app", random(1<<20))
	d := newDevice(t, []*registry{r})
	pull := d.begin(r)
	layer, err := d.pull(pull, r)
	if err != nil || !bytes.Equal(layer, r.layer) {
		t.Fatalf("%d bytes came: %v", len(layer), err)
	}
	if brought, total := pull.Progress(); brought != 1<<20 || total != 1<<20+2 || !pull.Used() || pull.Problem() != nil {
		t.Errorf("progress is %d of %d, %v", brought, total, pull.Problem())
	}
	if got := strings.Join(d.podman.registries, " "); got != r.host() {
		t.Errorf("podman was told of %q", got)
	}
	status, part, err := d.get(pull.Login(), d.at(r)+"/blobs/"+digestOf(r.layer), "Range", "bytes=1000-")
	if err != nil || status != http.StatusPartialContent || !bytes.Equal(part, r.layer[1000:]) {
		t.Errorf("a part is %d, %d bytes: %v", status, len(part), err)
	}
	pull.End(true)
	if left, _ := os.ReadDir(d.dir); len(left) > 0 {
		t.Errorf("%d files stay of a pull that is done", len(left))
	}
}

// Another account of the device reaches loopback, and gets nothing.
func TestStrangersOfTheDevice(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "team/app", random(1000))
	d := newDevice(t, []*registry{r})
	mine, other := d.begin(r), d.begin(r)
	ended := d.begin(r)
	ended.End(true)
	path := d.at(r) + "/manifests/1"
	for what, login := range map[string]container.Login{
		"nobody": {}, "a guess": {User: mine.Login().User, Password: "x"}, "the login of another pull": {User: mine.Login().User, Password: other.Login().Password}, "one that ended": ended.Login(),
	} {
		if status, _, err := d.get(login, path); err != nil || status != http.StatusUnauthorized {
			t.Errorf("%s gets %d, %v", what, status, err)
		}
	}
	ask, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.Address()+path, nil)
	must(t, err)
	response, err := d.client.Do(ask)
	must(t, err)
	if must(t, response.Body.Close()); !response.Close {
		t.Error("who has no login keeps a connection")
	}
	if status, _, _ := d.get(mine.Login(), path); status != http.StatusOK {
		t.Errorf("the control: podman gets %d", status)
	}
	for _, path := range []string{"/v2/other/app/manifests/1", d.at(r) + "/manifests/../x", d.at(r) + "x/manifests/1", d.at(r) + "/blobs/" + digestOf(nil), "/v2/_catalog"} {
		if status, _, _ := d.get(mine.Login(), path); status != http.StatusNotFound {
			t.Errorf("%s is answered with %d", path, status)
		}
	}
}

func TestATransferGoesOn(t *testing.T) {
	t.Parallel()
	for what, noRanges := range map[string]bool{"ranges": false, "no ranges": true} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, "team/app", random(1<<20))
			r.set(func(r *registry) { r.cut, r.noRanges = 700<<10, noRanges })
			d := newDevice(t, []*registry{r})
			layer, err := d.pull(d.begin(r), r)
			if err != nil || !bytes.Equal(layer, r.layer) {
				t.Fatalf("%d bytes came: %v", len(layer), err)
			}
			if !noRanges {
				r.set(func(r *registry) {
					if r.sent != 1<<20 {
						t.Errorf("the registry sent %d bytes", r.sent)
					}
				})
			}
		})
	}
}

// A pull that ended in the middle is resumed by the next, of another process.
func TestAnInterruptedPullIsResumed(t *testing.T) {
	t.Parallel()
	const first = 600 << 10
	r := newRegistry(t, "team/app", random(1<<20))
	r.set(func(r *registry) { r.cut, r.breaks = first, true })
	dir := t.TempDir()
	keep := func(c *mirror.Config) { c.Dir = dir }
	d := newDevice(t, []*registry{r}, keep)
	pull := d.begin(r)
	_, _, err := d.get(pull.Login(), d.at(r)+"/manifests/1")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.Address()+d.at(r)+"/blobs/"+digestOf(r.layer), nil)
	must(t, err)
	q.SetBasicAuth(pull.Login().User, pull.Login().Password)
	response, err := d.client.Do(q)
	must(t, err)
	_, err = io.ReadFull(response.Body, make([]byte, first))
	must(t, err)
	cancel() // as when podman or the agent ends
	_ = response.Body.Close()
	pull.End(false)
	r.set(func(r *registry) { r.status = 0 })
	again := newDevice(t, []*registry{r}, keep)
	layer, err := again.pull(again.begin(r), r)
	if err != nil || !bytes.Equal(layer, r.layer) {
		t.Fatalf("%d bytes came: %v", len(layer), err)
	}
	r.set(func(r *registry) {
		if r.sent != 1<<20 {
			t.Errorf("the registry sent %d bytes of %d", r.sent, 1<<20)
		}
	})
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	for what, tc := range map[string]struct {
		change  func(*registry)
		trusted bool
		want    error
		text    string
	}{
		"a login is wanted": {func(r *registry) { r.user, r.password = "a", "b" }, true, mirror.ErrRefused, "check the login"},
		"an unknown image":  {func(r *registry) { r.repository = "other" }, true, mirror.ErrNotFound, "manifest unknown"},
		"asked too often":   {func(r *registry) { r.status = http.StatusTooManyRequests }, true, mirror.ErrUnavailable, "too often"},
		"a certificate":     {func(*registry) {}, false, mirror.ErrUnavailable, "/etc/containers/certs.d/"},
		"nobody listens":    {func(r *registry) { r.mu.Unlock(); r.Close(); r.mu.Lock() }, true, mirror.ErrUnavailable, "refused"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, "team/app", random(1000))
			var trusted []*registry
			if tc.trusted {
				trusted = append(trusted, r)
			}
			d := newDevice(t, trusted)
			pull := d.begin(r)
			path := d.at(r) + "/manifests/1"
			r.set(tc.change)
			status, _, err := d.get(pull.Login(), path)
			must(t, err)
			problem := pull.Problem()
			if status < 400 || !errors.Is(problem, tc.want) || !strings.Contains(problem.Error(), tc.text) || strings.Contains(problem.Error(), "\n") {
				t.Errorf("%d: %v", status, problem)
			}
		})
	}
}

func TestContentThatIsWrong(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "team/app", random(1<<20))
	r.set(func(r *registry) { r.bad = true })
	d := newDevice(t, []*registry{r})
	pull := d.begin(r)
	if layer, err := d.pull(pull, r); err == nil {
		t.Fatalf("%d bytes of another content came", len(layer))
	}
	r.set(func(r *registry) { r.bad = false })
	if _, err := d.pull(pull, r); err != nil {
		t.Errorf("what was wrong stays: %v", err)
	}
}

func TestOrderOfPlaces(t *testing.T) {
	t.Parallel()
	layer := random(100 << 10)
	far := newRegistry(t, "team/app", layer)
	near := newRegistry(t, "team/app", layer)
	gw := newRegistry(t, strings.ReplaceAll(far.host(), ":", "__")+"/team/app", layer)
	gw.set(func(r *registry) { r.user, r.password = "press-1", "g" })
	d := newDevice(t, []*registry{far, near, gw}, func(c *mirror.Config) {
		c.Mirrors = map[string][]string{far.host(): {near.URL}}
		c.Gateway = gateway{wire.RegistryReply{Registries: []string{gw.host()}, Upstreams: []string{far.host()}, User: "press-1", Password: "g"}}
	})
	for _, r := range []*registry{near, gw, far} {
		got, err := d.pull(d.begin(far), far)
		if err != nil || !bytes.Equal(got, layer) {
			t.Fatalf("%d bytes: %v", len(got), err)
		}
		r.set(func(r *registry) {
			if r.sent != len(layer) {
				t.Errorf("%s sent %d bytes", r.repository, r.sent)
			}
			r.status = http.StatusNotFound
		})
		entries, _ := os.ReadDir(d.dir)
		for _, e := range entries {
			must(t, os.Remove(filepath.Join(d.dir, e.Name())))
		}
	}
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, "team/app", random(1<<20))
	d := newDevice(t, []*registry{r})
	pull := d.begin(r)
	pull.Room = func(_ context.Context, bytes int64) error { return fmt.Errorf("%w: %d", container.ErrNoSpace, bytes) }
	if _, err := d.pull(pull, r); err == nil || !errors.Is(pull.Problem(), container.ErrNoSpace) {
		t.Errorf("error is %v, %v", err, pull.Problem())
	}
	r.set(func(r *registry) {
		if r.sent > 0 {
			t.Errorf("%d bytes were fetched for nothing", r.sent)
		}
	})
}

// Podman asks for the layers of a pull side by side: of all pulls, only so many are fetched at a
// time, one by default.
func TestLayersAtATime(t *testing.T) {
	t.Parallel()
	for _, transfers := range []int{0, 1, 2} {
		const pulls = 3
		var mu sync.Mutex
		now, most, both := 0, 0, make(chan struct{})
		layers := func() {
			mu.Lock()
			if now++; now > most {
				if most = now; most == 2 {
					close(both)
				}
			}
			mu.Unlock()
			select { // so that a second one would come meanwhile
			case <-both:
			case <-time.After(200 * time.Millisecond):
			}
			mu.Lock()
			now--
			mu.Unlock()
		}
		var all []*registry
		for i := range pulls {
			r := newRegistry(t, "team/app", random(1000+i))
			r.set(func(r *registry) { r.layers = layers })
			all = append(all, r)
		}
		d := newDevice(t, all, func(c *mirror.Config) { c.Transfers = transfers })
		var pulling sync.WaitGroup
		for _, r := range all {
			pull := d.begin(r)
			pulling.Go(func() {
				if _, err := d.pull(pull, r); err != nil {
					t.Error(err)
				}
				pull.End(true)
			})
		}
		pulling.Wait()
		if mu.Lock(); most != max(1, transfers) {
			t.Errorf("with %d transfers, %d layers were fetched at a time", transfers, most)
		}
		mu.Unlock()
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	limits, err := pace.Parse([]string{"256Ki"})
	must(t, err)
	r := newRegistry(t, "team/app", random(256<<10))
	d := newDevice(t, []*registry{r}, func(c *mirror.Config) { c.Limits = limits })
	began := time.Now()
	if _, err := d.pull(d.begin(r), r); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 700*time.Millisecond {
		t.Errorf("256 KiB at 256 KiB/s took %v", took)
	}
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
