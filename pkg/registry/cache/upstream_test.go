package cache_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// upstream is a registry with repository team/app, which counts what it sends.
type upstream struct {
	t   testing.TB
	web *httptest.Server

	mu    sync.Mutex // guards what follows
	tags  map[string]string
	blobs map[string][]byte
	// sent are the bytes of layers, looks the questions for manifests.
	sent, looks int
	// asked is the Range of the last request for a layer.
	asked string
	// cut ends each answer with a layer after so many bytes; zero for none.
	cut int
	// hold lets answers with layers wait in the middle until it is closed; nil for none.
	hold chan struct{}
	// noRanges, wrong and down: it knows no ranges, sends another content, answers nothing.
	noRanges, wrong, down bool
	// user and password are needed unless they are empty.
	user, password string
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{t: t, tags: map[string]string{}, blobs: map[string][]byte{}}
	u.web = httptest.NewServer(u)
	t.Cleanup(u.web.Close)
	return u
}

// host is HOST:PORT.
func (u *upstream) host() string { return strings.TrimPrefix(u.web.URL, "http://") }

// add makes an image of a layer of so many bytes.
func (u *upstream) add(tag string, size int64) v1.Image {
	u.t.Helper()
	i, err := random.Image(size, 1)
	must(u.t, err)
	u.mu.Lock()
	defer u.mu.Unlock()
	manifest, err := i.RawManifest()
	must(u.t, err)
	digest, err := i.Digest()
	must(u.t, err)
	u.tags[tag], u.blobs[digest.String()] = digest.String(), manifest
	config, err := i.RawConfigFile()
	must(u.t, err)
	name, err := i.ConfigName()
	must(u.t, err)
	u.blobs[name.String()] = config
	d := layer(u.t, i)
	layers, err := i.Layers()
	must(u.t, err)
	packed, err := layers[0].Compressed()
	must(u.t, err)
	u.blobs[d.Digest.String()], err = io.ReadAll(packed)
	must(u.t, err)
	return i
}

// layer is the descriptor of the only layer of an image.
func layer(t testing.TB, i v1.Image) v1.Descriptor {
	t.Helper()
	m, err := i.Manifest()
	must(t, err)
	return m.Layers[0]
}

// set changes how it behaves.
func (u *upstream) set(f func(*upstream)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f(u)
}

func (u *upstream) counts() (sent, looks int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent, u.looks
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	user, password, _ := r.BasicAuth()
	down, admitted := u.down, user == u.user && password == u.password
	u.mu.Unlock()
	kind, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/team/app/"), "/")
	switch {
	case down:
		w.WriteHeader(http.StatusBadGateway)
	case !admitted:
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	case kind == "manifests":
		u.manifest(w, r, name)
	case kind == "blobs":
		u.blob(w, r, name)
	case r.URL.Path != "/v2/":
		http.NotFound(w, r)
	}
}

func (u *upstream) manifest(w http.ResponseWriter, r *http.Request, name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.looks++
	if digest, tagged := u.tags[name]; tagged {
		name = digest
	}
	data, found := u.blobs[name]
	if !found {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Docker-Content-Digest", name)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (u *upstream) blob(w http.ResponseWriter, r *http.Request, name string) {
	u.mu.Lock()
	data, found := u.blobs[name]
	u.asked = r.Header.Get("Range")
	if u.wrong {
		data = bytes.Repeat([]byte{'x'}, len(data))
	}
	if u.noRanges {
		r.Header.Del("Range")
	}
	counter := &counter{ResponseWriter: w, upstream: u, left: len(data) + 1, hold: u.hold}
	if u.cut > 0 {
		counter.left = u.cut
	}
	u.mu.Unlock()
	if !found {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(counter, r, "", time.Time{}, bytes.NewReader(data))
}

// counter counts what is sent, and ends it.
type counter struct {
	http.ResponseWriter
	*upstream

	left int
	hold chan struct{}
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	p = p[:min(len(p), c.left)]
	n, err := c.ResponseWriter.Write(p)
	c.left -= n
	c.mu.Lock()
	c.sent += n
	c.mu.Unlock()
	if c.left == 0 {
		panic(http.ErrAbortHandler)
	}
	if c.hold != nil {
		http.NewResponseController(c.ResponseWriter).Flush()
		<-c.hold
	}
	return n, err
}
