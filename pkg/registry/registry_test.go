package registry_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/registry"
	"fleet.nationtech.io/fleet/test/releasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// image is an image of some random layers.
func image(t testing.TB) v1.Image {
	t.Helper()
	i, err := random.Image(2000, 2)
	must(t, err)
	return i
}

func digest(t testing.TB, i interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := i.Digest()
	must(t, err)
	return d.String()
}

// dockerArchive writes what docker save writes.
func dockerArchive(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "some.tar")
	tags := map[name.Tag]v1.Image{}
	for n, i := range images {
		tag, err := name.NewTag(n)
		must(t, err)
		tags[tag] = i
	}
	must(t, tarball.MultiWriteToFile(path, tags))
	return path
}

// ociArchive writes what podman save --format oci-archive writes.
func ociArchive(t testing.TB, called string, add mutate.Appendable, change func(dir string)) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	must(t, err)
	annotation := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": called})
	switch a := add.(type) {
	case v1.Image:
		must(t, l.AppendImage(a, annotation))
	case v1.ImageIndex:
		must(t, l.AppendIndex(a, annotation))
	}
	if change != nil {
		change(dir)
	}
	data, err := releasetest.Tar(dir)
	must(t, err)
	path := filepath.Join(t.TempDir(), "other.tar")
	must(t, os.WriteFile(path, data, 0o600))
	return path
}

func push(s *registry.Store, path string, as registry.Name) ([]registry.Name, error) {
	a, err := registry.OpenArchive(path)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	return s.Push(a, as)
}

func names(t testing.TB, s *registry.Store) []string {
	t.Helper()
	images, err := s.List()
	must(t, err)
	var all []string
	for _, i := range images {
		all = append(all, i.Name.String())
	}
	return all
}

func TestPushFiles(t *testing.T) {
	t.Parallel()
	for called, tc := range map[string]struct {
		path func(testing.TB) string
		as   registry.Name
		want []string
	}{
		"docker archive": {func(t testing.TB) string {
			return dockerArchive(t, map[string]v1.Image{"localhost/hello:1": image(t), "registry.example.com:5000/team/app:2": image(t)})
		}, registry.Name{}, []string{"hello:1", "team/app:2"}},
		"OCI archive":                 {func(t testing.TB) string { return ociArchive(t, "docker.io/library/web:3", image(t), nil) }, registry.Name{}, []string{"library/web:3"}},
		"OCI archive with a tag only": {func(t testing.TB) string { return ociArchive(t, "4", image(t), nil) }, registry.Name{}, []string{"other:4"}},
		"another name":                {func(t testing.TB) string { return ociArchive(t, "web:3", image(t), nil) }, registry.Name{Repository: "a/b", Tag: "c"}, []string{"a/b:c"}},
		"several platforms": {func(t testing.TB) string {
			i, err := random.Index(1000, 2, 3)
			must(t, err)
			return ociArchive(t, "many:1", i, nil)
		}, registry.Name{}, []string{"many:1"}},
	} {
		t.Run(called, func(t *testing.T) {
			t.Parallel()
			s := registry.Open(t.TempDir())
			got, err := push(s, tc.path(t), tc.as)
			must(t, err)
			if len(got) != len(tc.want) || !slices.Equal(names(t, s), tc.want) {
				t.Errorf("names are %v and %v, want %v", got, names(t, s), tc.want)
			}
		})
	}
}

func TestReplaceRemoveAndCollect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := registry.Open(dir)
	if freed, err := s.GC(); freed != 0 || err != nil {
		t.Errorf("an empty store frees %d, %v", freed, err)
	}
	blobs := func() int {
		entries, err := os.ReadDir(filepath.Join(dir, "images", "blobs", "sha256"))
		must(t, err)
		return len(entries)
	}
	for range 2 {
		_, err := push(s, ociArchive(t, "web:1", image(t), nil), registry.Name{})
		must(t, err)
	}
	_, err := push(s, ociArchive(t, "web:2", image(t), nil), registry.Name{})
	must(t, err)
	const each = 4 // manifest, configuration, two layers
	if got := blobs(); got != 3*each {
		t.Errorf("there are %d blobs", got)
	}
	freed, err := s.GC()
	must(t, err)
	if got := blobs(); got != 2*each || freed < 4000 {
		t.Errorf("there are %d blobs, %d bytes were freed", got, freed)
	}
	must(t, s.Remove(registry.Name{Repository: "web", Tag: "1"}))
	if err := s.Remove(registry.Name{Repository: "web", Tag: "1"}); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
	_, err = s.GC()
	must(t, err)
	if got := blobs(); got != each || !slices.Equal(names(t, s), []string{"web:2"}) {
		t.Errorf("there are %d blobs of %v", got, names(t, s))
	}
}

func TestRefusedArchives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := registry.Open(dir)
	blob := func(dir string) string {
		found, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
		must(t, err)
		return found[0]
	}
	write := func(path, content string) { must(t, os.WriteFile(path, []byte(content), 0o600)) }
	for what, path := range map[string]string{
		"another content": ociArchive(t, "a:1", image(t), func(d string) { write(blob(d), "x") }),
		"a missing part":  ociArchive(t, "a:1", image(t), func(d string) { must(t, os.Remove(blob(d))) }),
		"a damaged index": ociArchive(t, "a:1", image(t), func(d string) { write(filepath.Join(d, "index.json"), "{") }),
		"an empty index":  ociArchive(t, "a:1", image(t), func(d string) { write(filepath.Join(d, "index.json"), `{"manifests": []}`) }),
		"a strange digest": ociArchive(t, "a:1", image(t), func(d string) {
			write(filepath.Join(d, "index.json"), `{"manifests": [{"digest": "sha256:../../x", "size": 1}]}`)
		}),
		"a strange blob": ociArchive(t, "a:1", image(t), func(d string) { write(filepath.Join(d, "blobs", "sha256", "x"), "x") }),
		"a strange name": ociArchive(t, "../../a:1", image(t), nil),
		"an empty file":  "/dev/null",
		"no archive":     "registry_test.go",
	} {
		if got, err := push(s, path, registry.Name{}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "images", "blobs", "sha256", "*"))
	must(t, err)
	if len(left) > 0 || len(names(t, s)) > 0 {
		t.Errorf("there are %v of %v", left, names(t, s))
	}
}

// What a few bytes of an archive would become is not written.
func TestArchivesWithHoles(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"GNU": {"--format=gnu"}, "POSIX 0.0": {"--format=posix", "--sparse-version=0.0"}, "POSIX 1.0": {"--format=posix", "--sparse-version=1.0"},
	} {
		for _, marker := range []string{"index.json", "manifest.json"} {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, marker), []byte("{}"), 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "layer.tar"), nil, 0o600))
			must(t, os.Truncate(filepath.Join(dir, "layer.tar"), 1<<20))
			path := filepath.Join(t.TempDir(), "holes.tar")
			args := append(slices.Clone(flags), "--sparse", "-cf", path, "-C", dir, "layer.tar", marker)
			if out, err := exec.CommandContext(t.Context(), "tar", args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if _, err := push(registry.Open(t.TempDir()), path, registry.Name{}); !errors.Is(err, registry.ErrArchive) || !strings.Contains(err.Error(), "has holes") {
				t.Errorf("%s, %s: error is %v", name, marker, err)
			}
		}
	}
}

// One layer that is named again and again is work that the archive is not worth.
func TestLayersAgainAndAgain(t *testing.T) {
	t.Parallel()
	archive := func(layers, size int) string {
		sum := sha256.Sum256(make([]byte, size))
		diff := `"sha256:` + hex.EncodeToString(sum[:]) + `"`
		config := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[` + strings.TrimSuffix(strings.Repeat(diff+",", layers), ",") + `]}}`
		manifest := `[{"Config":"config.json","RepoTags":["app:1"],"Layers":[` + strings.TrimSuffix(strings.Repeat(`"layer.tar",`, layers), ",") + `]}]`
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, content := range map[string][]byte{"config.json": []byte(config), "layer.tar": make([]byte, size), "manifest.json": []byte(manifest)} {
			must(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(content)), Mode: 0o600}))
			_, err := w.Write(content)
			must(t, err)
		}
		must(t, w.Close())
		path := filepath.Join(t.TempDir(), "layers.tar")
		must(t, os.WriteFile(path, b.Bytes(), 0o600))
		return path
	}
	for name, tc := range map[string]struct {
		layers, size int
		bad          bool
	}{"many": {layers: 1001, size: 10, bad: true}, "much": {layers: 100, size: 1 << 20, bad: true}, "few": {layers: 3, size: 1024}} {
		if _, err := push(registry.Open(t.TempDir()), archive(tc.layers, tc.size), registry.Name{}); errors.Is(err, registry.ErrArchive) != tc.bad || err != nil && !tc.bad {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestBlobOutsideIsNotWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range []string{"index.json", "blobs/sha256/../../../outside", "../outside", filepath.Join(dir, "outside")} {
		must(t, w.WriteHeader(&tar.Header{Name: n, Typeflag: tar.TypeReg, Size: 2}))
		_, err := w.Write([]byte("{}"))
		must(t, err)
	}
	must(t, w.Close())
	path := filepath.Join(t.TempDir(), "a.tar")
	must(t, os.WriteFile(path, b.Bytes(), 0o600))
	if _, err := push(registry.Open(dir), path, registry.Name{}); !errors.Is(err, registry.ErrArchive) {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "outside")); err == nil {
		t.Error("a file was written outside")
	}
}

func TestPushFromAnotherRegistry(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(web.Close)
	host := strings.TrimPrefix(web.URL, "http://")
	tag, err := name.NewTag(host + "/team/app:1")
	must(t, err)
	index, err := random.Index(1000, 1, 2)
	must(t, err)
	must(t, remote.WriteIndex(tag, index))
	s := registry.Open(t.TempDir())
	source, err := registry.OpenRemote(t.Context(), tag.String(), nil)
	must(t, err)
	got, err := s.Push(source, registry.Name{})
	must(t, err)
	images, err := s.List()
	must(t, err)
	if len(got) != 1 || len(images) != 1 || images[0].Name.String() != "team/app:1" || images[0].Digest != digest(t, index) {
		t.Errorf("names are %v, images %+v", got, images)
	}
}

func TestParseName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a": "a:latest", "a:1": "a:1", "team/a:1": "team/a:1", "localhost/a:1": "a:1", "quay.io/team/a:1": "team/a:1", "h:5000/a": "a:latest",
		"": "", "A:1": "", "a:": "", "../a": "", "a b": "", "a@sha256:0": "", "/a": "", "a//b": "",
	} {
		got, err := registry.ParseName(in)
		if err != nil && want != "" || err == nil && got.String() != want {
			t.Errorf("%q is %v, %v, want %q", in, got, err, want)
		}
	}
}

// keys are the keys of devices.
type keys map[string][]string

func (k keys) Keys(device string) []string { return k[device] }

// site is a served store with one image, and what devices have.
type site struct {
	store *registry.Store
	t     testing.TB
	url   string
	image v1.Image
	keys  keys
	now   time.Time
	rights
	*registry.Issuer
}

// rights are the images that devices may have.
type rights struct {
	mu    sync.Mutex // guards what follows
	names map[string][]string
}

func (r *rights) Images(device string) ([]string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names[device], r.names != nil
}

// set says which images a device is told to run.
func (r *rights) set(device string, names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil {
		r.names = map[string][]string{}
	}
	r.names[device] = names
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, image: image(t), keys: keys{"press-1": {"k1"}, "press-2": {"k1"}}, now: time.Unix(1e9, 0)}
	s.store = registry.Open(t.TempDir())
	_, err := push(s.store, ociArchive(t, "team/app:1", s.image, nil), registry.Name{})
	must(t, err)
	s.Issuer = registry.NewIssuer(s.keys, func() time.Time { return s.now })
	s.rights.set("press-1", "gateway:8443/team/app:1", "gateway:8443/team/app:2", "gateway:8443/team/app@"+digest(t, s.image))
	web := httptest.NewServer(registry.NewHandler(registry.Site{
		Store: s.store, Credentials: s.Issuer, Rights: &s.rights, Names: func() []string { return []string{"gateway:8443"} },
	}, func(h http.Handler) http.Handler { return h }))
	t.Cleanup(web.Close)
	s.url = web.URL
	return s
}

func (s *site) pull(ref, user, password string) (v1.Image, error) {
	r, err := name.ParseReference(strings.TrimPrefix(s.url, "http://") + "/" + ref)
	must(s.t, err)
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	i, err := remote.Image(r, remote.WithTransport(transport), remote.WithAuth(&authn.Basic{Username: user, Password: password}))
	if err != nil {
		return nil, err
	}
	return i, validate.Image(i)
}

func TestPull(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	password, ok := s.Issue("press-1")
	if !ok {
		t.Fatal("no credentials")
	}
	for _, ref := range []string{"team/app:1", "team/app@" + digest(t, s.image)} {
		got, err := s.pull(ref, "press-1", password)
		must(t, err)
		if digest(t, got) != digest(t, s.image) {
			t.Errorf("%s is another image", ref)
		}
	}
	for ref, want := range map[string]string{"team/app:2": "MANIFEST_UNKNOWN", "other:1": "DENIED", "team/app@sha256:" + strings.Repeat("0", 64): "DENIED"} {
		if _, err := s.pull(ref, "press-1", password); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", ref, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if password, ok := s.Issue("stranger"); ok || password != "" {
		t.Error("a stranger gets credentials")
	}
	password, _ := s.Issue("press-1")
	other := registry.NewIssuer(s.keys, func() time.Time { return s.now })
	foreign, _ := other.Issue("press-1")
	refused := func(what, user, password string) {
		t.Helper()
		if s.Check(user, password) {
			t.Errorf("%s: the credentials are good", what)
		}
		if _, err := s.pull("team/app:1", user, password); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
			t.Errorf("%s: error is %v", what, err)
		}
	}
	refused("none", "", "")
	refused("another device", "press-2", password)
	refused("another server", "press-1", foreign)
	refused("cut short", "press-1", password[:10])
	refused("changed", "press-1", "B"+password[1:])
	s.now = s.now.Add(registry.TTL - time.Second)
	if !s.Check("press-1", password) {
		t.Error("the credentials end too early")
	}
	s.now = s.now.Add(time.Second)
	refused("expired", "press-1", password)
	password, _ = s.Issue("press-1")
	s.keys["press-1"] = []string{"k2", "k1"}
	if !s.Check("press-1", password) {
		t.Error("the credentials end before the next key was used")
	}
	next, _ := s.Issue("press-1")
	s.keys["press-1"] = []string{"k2"}
	refused("replaced", "press-1", password)
	if !s.Check("press-1", next) {
		t.Error("the credentials end when the next key is used")
	}
	password, _ = s.Issue("press-1")
	delete(s.keys, "press-1")
	refused("revoked", "press-1", password)
}

func (s *site) request(method, path string, header ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, nil)
	must(s.t, err)
	password, _ := s.Issue("press-1")
	r.SetBasicAuth("press-1", password)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(r)
	must(s.t, err)
	s.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestNothingCanBeWritten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, tc := range [][2]string{
		{http.MethodPost, "/v2/team/app/blobs/uploads/"}, {http.MethodPut, "/v2/team/app/manifests/1"}, {http.MethodDelete, "/v2/team/app/manifests/1"},
		{http.MethodDelete, "/v2/team/app/blobs/" + digest(t, s.image)}, {http.MethodPatch, "/v2/team/app/blobs/uploads/x"},
	} {
		if r := s.request(tc[0], tc[1]); r.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s %s is %s", tc[0], tc[1], r.Status)
		}
	}
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	layers, err := s.image.Layers()
	must(t, err)
	packed, err := layers[0].Compressed()
	must(t, err)
	want, err := io.ReadAll(packed)
	must(t, err)
	path := "/v2/team/app/blobs/" + digest(t, layers[0])
	for header, part := range map[string][]byte{"": want, "bytes=10-19": want[10:20], "bytes=10-": want[10:]} {
		r := s.request(http.MethodGet, path, "Range", header)
		got, err := io.ReadAll(r.Body)
		must(t, err)
		if !bytes.Equal(got, part) {
			t.Errorf("%q: %s, %d bytes, want %d", header, r.Status, len(got), len(part))
		}
	}
	if r := s.request(http.MethodHead, path); r.StatusCode != http.StatusOK || r.ContentLength != int64(len(want)) {
		t.Errorf("HEAD is %s, %d bytes", r.Status, r.ContentLength)
	}
	for _, path := range []string{
		"/v2/team/app/blobs/sha256:" + strings.Repeat("0", 64), "/v2/team/app/blobs/sha256:..%2f..%2findex.json", "/v2/team/app/manifests/../../x", "/v2/_catalog",
		"/v2/team/app/manifests/" + digest(t, layers[0]), "/v2/team/app/blobs/sha512:" + strings.Repeat("0", 128), "/v2/team/app/tags/list",
	} {
		if r := s.request(http.MethodGet, path); r.StatusCode < 400 || r.StatusCode >= 500 {
			t.Errorf("%s is %s", path, r.Status)
		}
	}
}

// What is damaged anywhere is an error or an image; it ends nothing.
func TestDamagedArchives(t *testing.T) {
	t.Parallel()
	s := registry.Open(t.TempDir())
	random := rand.New(rand.NewPCG(1, 2))
	for _, path := range []string{ociArchive(t, "app:1", image(t), nil), dockerArchive(t, map[string]v1.Image{"app:1": image(t)})} {
		data, err := os.ReadFile(path)
		must(t, err)
		for range 200 {
			damaged := slices.Clone(data)
			for range 3 {
				damaged[random.IntN(len(damaged))] = byte(random.IntN(256))
			}
			changed := filepath.Join(t.TempDir(), "a.tar")
			must(t, os.WriteFile(changed, damaged, 0o600))
			_, _ = push(s, changed, registry.Name{Repository: "a", Tag: "1"}) // what becomes of it is all the same
		}
	}
	if _, err := s.List(); err != nil { // what was taken is whole
		t.Error(err)
	}
	_, err := s.GC()
	must(t, err)
}
