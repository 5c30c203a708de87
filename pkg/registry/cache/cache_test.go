package cache_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fleet.nationtech.io/fleet/pkg/guard"
	"fleet.nationtech.io/fleet/pkg/registry/cache"
)

// site is a cache of an upstream.
type site struct {
	t          testing.TB
	dir        string
	upstream   *upstream
	repository string
	size       int64
	authFile   string

	mu  sync.Mutex // guards now
	now time.Time
	*cache.Cache
}

func newSite(t testing.TB, size int64) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), upstream: newUpstream(t), size: size, now: time.Now()}
	s.open()
	t.Cleanup(func() { _ = s.Close() })
	path, served := s.Path(s.upstream.host(), "team/app")
	if !served || !s.Serves(path) || s.Serves("team/app") {
		t.Fatalf("the repository is %q, %t", path, served)
	}
	s.repository = path
	return s
}

// open opens the cache, again after Close.
func (s *site) open(change ...func(*cache.Config)) {
	s.t.Helper()
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	config := cache.Config{
		Dir: s.dir, Upstreams: []string{"http://" + s.upstream.host()}, Size: s.size, AuthFile: s.authFile, Transport: transport, Now: s.time, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&config)
	}
	c, err := cache.New(config)
	must(s.t, err)
	s.Cache = c
}

func (s *site) time() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *site) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

func (s *site) read(d v1.Descriptor, from int64) ([]byte, error) {
	r, err := s.Open(s.t.Context(), s.repository, d, from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// want reads a layer and compares it with that of the upstream.
func (s *site) want(d v1.Descriptor, from int64) {
	s.t.Helper()
	got, err := s.read(d, from)
	if want := s.upstream.blobs[d.Digest.String()][from:]; err != nil || !bytes.Equal(got, want) {
		s.t.Errorf("%d bytes, want %d: %v", len(got), len(want), err)
	}
}

// wantSent compares what the upstream sent of layers, and begins to count anew.
func (s *site) wantSent(want int64) {
	s.t.Helper()
	if got, _ := s.upstream.counts(); int64(got) != want {
		s.t.Errorf("the upstream sent %d bytes, want %d", got, want)
	}
	s.upstream.set(func(u *upstream) { u.sent = 0 })
}

func TestManyDevicesAndOneFetch(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	d := layer(t, s.upstream.add("1", 3<<20))
	hold := make(chan struct{})
	s.upstream.set(func(u *upstream) { u.hold = hold })
	var readers sync.WaitGroup
	first, err := s.Open(t.Context(), s.repository, d, 0)
	must(t, err)
	defer first.Close()
	if _, err := io.ReadFull(first, make([]byte, 1000)); err != nil { // it comes before the upstream sent all
		t.Fatal(err)
	}
	for i := range 10 {
		r, err := s.Open(t.Context(), s.repository, d, int64(i*1000))
		must(t, err)
		readers.Go(func() {
			defer r.Close()
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, s.upstream.blobs[d.Digest.String()][i*1000:]) {
				t.Errorf("reader %d has %d bytes: %v", i, len(got), err)
			}
		})
	}
	close(hold)
	readers.Wait()
	s.wantSent(d.Size)
	s.upstream.web.Close()
	s.want(d, 0)
	s.want(d, 2<<20)
	must(t, s.Close())
	s.open()
	s.want(d, 0)
}

func TestAFetchGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	for what, tc := range map[string]struct {
		noRanges bool
		most     func(size int64) int64
	}{
		"ranges":    {false, func(size int64) int64 { return size }},
		"no ranges": {true, func(size int64) int64 { return 1 << 40 }},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 1<<30)
			d := layer(t, s.upstream.add("1", 1<<20))
			s.upstream.set(func(u *upstream) { u.cut, u.noRanges = 700<<10, tc.noRanges })
			if tc.noRanges { // the whole comes at the second attempt
				hold := s.upstream
				r, err := s.Open(t.Context(), s.repository, d, 0)
				must(t, err)
				defer r.Close()
				_, err = io.ReadFull(r, make([]byte, 600<<10))
				must(t, err)
				hold.set(func(u *upstream) { u.cut = 0 })
				rest, err := io.ReadAll(r)
				if err != nil || int64(len(rest)) != d.Size-600<<10 {
					t.Errorf("the rest has %d bytes: %v", len(rest), err)
				}
			} else {
				s.want(d, 0)
			}
			if got, _ := s.upstream.counts(); int64(got) < d.Size || int64(got) > tc.most(d.Size) {
				t.Errorf("the upstream sent %d bytes of %d", got, d.Size)
			}
		})
	}
}

// What an interrupted fetch brought is not fetched again, by another process either.
func TestAnInterruptedFetchIsResumed(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	d := layer(t, s.upstream.add("1", 1<<20))
	hold := make(chan struct{})
	s.upstream.set(func(u *upstream) { u.hold = hold })
	r, err := s.Open(t.Context(), s.repository, d, 0)
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 30<<10))
	must(t, err)
	must(t, r.Close()) // the only device went away
	must(t, s.Close())
	close(hold)
	part, err := os.Stat(filepath.Join(s.dir, "parts", cache.PartName(s.repository, d)))
	must(t, err)
	if part.Size() < 30<<10 {
		t.Fatalf("%d bytes were kept", part.Size())
	}
	s.upstream.set(func(u *upstream) { u.hold = nil })
	s.open()
	s.want(d, 0)
	s.upstream.set(func(u *upstream) {
		if want := fmt.Sprintf("bytes=%d-", part.Size()); u.asked != want {
			t.Errorf("the upstream was asked for %q, want %q", u.asked, want)
		}
	})
}

func TestContentThatIsNotWhatTheDigestSays(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	d := layer(t, s.upstream.add("1", 1<<20))
	s.upstream.set(func(u *upstream) { u.wrong = true })
	if got, err := s.read(d, 0); !errors.Is(err, cache.ErrUnavailable) || int64(len(got)) == d.Size {
		t.Errorf("%d bytes came: %v", len(got), err)
	}
	s.upstream.set(func(u *upstream) { u.wrong = false })
	s.want(d, 0)

	// what the disk damages is not given away as a whole, and comes anew
	path := filepath.Join(s.dir, "blobs", d.Digest.Hex)
	must(t, os.WriteFile(path, bytes.Repeat([]byte{'x'}, int(d.Size)), 0o600))
	if got, err := s.read(d, 0); !errors.Is(err, cache.ErrUnavailable) || int64(len(got)) == d.Size {
		t.Errorf("of a damaged blob, %d bytes came: %v", len(got), err)
	}
	s.want(d, 0)
	must(t, os.Truncate(path, 100))
	s.want(d, 0)
	// a part that a power cut damaged does not stay
	must(t, os.Rename(path, filepath.Join(s.dir, "parts", cache.PartName(s.repository, d))))
	must(t, os.WriteFile(filepath.Join(s.dir, "parts", cache.PartName(s.repository, d)), make([]byte, 5000), 0o600))
	if _, err := s.read(d, 0); err == nil {
		t.Error("a damaged part is taken for a good one")
	}
	s.want(d, 0)
}

// Manifests are written by whoever makes images. What one says of a blob of another's takes
// nothing away, keeps nobody waiting, and what it only promises has nothing removed.
func TestLiesOfManifests(t *testing.T) {
	t.Parallel()
	s := newSite(t, 64<<20)
	d := layer(t, s.upstream.add("1", 20<<20))
	s.want(d, 0)
	lie := d
	lie.Size--
	if _, err := s.read(lie, 0); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("a blob of another size: %v", err)
	}
	if !s.Has(d.Digest) {
		t.Error("a lie removed a blob")
	}

	hold := make(chan struct{})
	defer close(hold)
	other := layer(t, s.upstream.add("2", 1<<20))
	s.upstream.set(func(u *upstream) { u.hold = hold })
	lie = other
	lie.Size = 63 << 20
	r, err := s.Open(t.Context(), s.repository, lie, 0)
	must(t, err)
	defer r.Close()
	_, err = io.ReadFull(r, make([]byte, 30<<10))
	must(t, err)
	s.upstream.set(func(u *upstream) { u.hold = nil })
	s.want(other, 0)
	if !s.Has(d.Digest) {
		t.Error("a promise removed a blob")
	}
	lie.Size = -1
	if _, err := s.Open(t.Context(), s.repository, lie, 0); err == nil {
		t.Error("a blob of less than nothing is taken")
	}
}

// A manifest that lies about a blob's size has nothing read: every request for a blob waits
// for the one before it to be found.
func TestALieIsNotWorthTheReading(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	d := layer(t, s.upstream.add("1", 1<<20))
	path := filepath.Join(s.dir, "blobs", d.Digest.Hex)
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 256<<30)) // it takes no room, and minutes to read
	lie := d
	lie.Size--
	opened := make(chan error)
	go func() {
		r, err := s.Open(t.Context(), s.repository, lie, 0)
		if err == nil {
			err = r.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the blob is read")
	}
	s.want(d, 0)
	if info, err := os.Stat(path); err != nil || info.Size() != d.Size {
		t.Errorf("what was damaged is not replaced: %v, %v", info, err)
	}
}

// An index may call anything a manifest, such as a layer of somebody else's image.
func TestALayerThatIsCalledAManifestStays(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	d := layer(t, s.upstream.add("1", 5<<20))
	s.want(d, 0)
	if data, err := s.Manifest(t.Context(), s.repository, d.Digest); err == nil {
		t.Errorf("a layer is a manifest of %d bytes", len(data))
	}
	if !s.Has(d.Digest) {
		t.Error("the layer is gone")
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	first := s.upstream.add("1", 1000)
	tag := func(want v1.Image) {
		t.Helper()
		digest, err := want.Digest()
		must(t, err)
		if got, err := s.Tag(t.Context(), s.repository, "1"); err != nil || got != digest {
			t.Errorf("the tag stands for %s, want %s: %v", got, digest, err)
		}
		manifest, err := s.Manifest(t.Context(), s.repository, digest)
		raw, _ := want.RawManifest()
		if err != nil || !bytes.Equal(manifest, raw) {
			t.Errorf("the manifest is %d bytes: %v", len(manifest), err)
		}
	}
	tag(first)
	second := s.upstream.add("1", 1000)
	tag(first) // it was looked for a moment ago
	s.pass(time.Minute)
	tag(second)
	s.pass(time.Hour)
	s.upstream.set(func(u *upstream) { u.down = true })
	tag(second)
	must(t, s.Close())
	s.open()
	tag(second)
	if _, err := s.Tag(t.Context(), s.repository, "2"); !errors.Is(err, cache.ErrUnavailable) {
		t.Errorf("a tag that nobody knows: %v", err)
	}
	s.upstream.set(func(u *upstream) { u.down = false })
	if _, err := s.Tag(t.Context(), s.repository, "2"); !errors.Is(err, cache.ErrUnknown) {
		t.Errorf("a tag that is not there: %v", err)
	}
}

func TestRoomEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2500<<10)
	var all []v1.Descriptor
	for n := range 3 {
		d := layer(t, s.upstream.add(fmt.Sprint(n), 1<<20))
		s.want(d, 0)
		s.pass(time.Minute)
		if n == 1 { // the first is in use
			s.want(all[0], 0)
			s.pass(time.Minute)
		}
		all = append(all, d)
	}
	if !s.Has(all[0].Digest) || s.Has(all[1].Digest) || !s.Has(all[2].Digest) {
		t.Errorf("kept are %t, %t, %t", s.Has(all[0].Digest), s.Has(all[1].Digest), s.Has(all[2].Digest))
	}
	large := layer(t, s.upstream.add("large", 3<<20))
	if _, err := s.read(large, 0); !errors.Is(err, cache.ErrSpace) {
		t.Errorf("what is larger than the cache: %v", err)
	}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	s.upstream.add("1", 1000)
	s.upstream.set(func(u *upstream) { u.user, u.password = "gateway", "s3cret" })
	s.authFile = filepath.Join(t.TempDir(), "auth.json")
	s.open()
	for content, want := range map[string]error{
		"": cache.ErrRefused, "{": cache.ErrRefused,
		`{"auths":{"` + s.upstream.host() + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("gateway:wrong")) + `"}}}`:  cache.ErrRefused,
		`{"auths":{"` + s.upstream.host() + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("gateway:s3cret")) + `"}}}`: nil,
	} {
		if content != "" {
			must(t, os.WriteFile(s.authFile, []byte(content), 0o600))
		}
		_, err := s.Tag(t.Context(), s.repository, "1")
		if !errors.Is(err, want) {
			t.Errorf("%.20q: error is %v", content, err)
		}
		if err != nil && (strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("the error says too much: %v", err)
		}
		s.pass(2 * time.Minute)
		must(t, os.RemoveAll(s.authFile))
	}
}

func TestNamesOfRegistries(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"docker.io": true, "registry.example.com:5000": true, "http://10.0.0.1:5000": true, "registry:5000": true,
		"": false, "registry": false, "docker.io/library": false, "https://docker.io": false, "a.b:x": false, "user@a.b": false, "../a.b": false,
	} {
		if err := cache.Check(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	if c, err := cache.New(cache.Config{}); c != nil || err != nil || c.Serves("docker.io/library/nginx") || c.Close() != nil {
		t.Errorf("a cache of nothing: %v, %v", c, err)
	}
	c, err := cache.New(cache.Config{Dir: t.TempDir(), Upstreams: []string{"docker.io", "a.example.com:5000"}, Size: 1, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	defer c.Close()
	for registry, want := range map[string]string{"docker.io": "docker.io/x", "index.docker.io": "docker.io/x", "a.example.com:5000": "a.example.com__5000/x", "a.example.com": "", "quay.io": ""} {
		if got, _ := c.Path(registry, "x"); got != want {
			t.Errorf("%s is served as %q, want %q", registry, got, want)
		}
	}
}

// roundTrip is a function as a http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A mistake of the program while something comes costs those who wait for it an error, and
// the next one fetches it.
func TestAFetchThatPanics(t *testing.T) {
	t.Parallel()
	s := newSite(t, 1<<30)
	d := layer(t, s.upstream.add("1", 1<<20))
	must(t, s.Close())
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	var broken atomic.Bool
	broken.Store(true)
	panics := guard.NewPanics()
	s.open(func(c *cache.Config) {
		c.Panics = panics
		c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "/blobs/") && broken.Load() {
				panic("a mistake")
			}
			return transport.RoundTrip(r)
		})
	})
	if _, err := s.read(d, 0); err == nil || !strings.Contains(err.Error(), "a mistake") {
		t.Errorf("who waits is told %v", err)
	}
	broken.Store(false)
	s.want(d, 0)
	if n := testutil.ToFloat64(panics.Collectors()[0]); n != 1 {
		t.Errorf("%v panics are counted, want 1", n)
	}
}
