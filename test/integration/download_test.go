package integration_test

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"fleet.nationtech.io/fleet/pkg/apis/fleet/v1alpha1"
	"fleet.nationtech.io/fleet/pkg/embedserver"
	"fleet.nationtech.io/fleet/pkg/registry"
	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/releasetest"
)

// push stores an image on the gateway while it runs.
func (s *server) push(called string) {
	s.t.Helper()
	tag, err := name.NewTag(called)
	if err != nil {
		s.t.Fatal(err)
	}
	image, err := random.Image(100_000, 3)
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		s.t.Fatal(err)
	}
	archive, err := registry.OpenArchive(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer archive.Close()
	if _, err := registry.Open(s.config.DataDir).Push(archive, registry.Name{}); err != nil {
		s.t.Fatal(err)
	}
}

// pull fetches an image of the gateway, whole.
func (s *server) pull(ref, user, password string) error {
	s.t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots()}}
	defer transport.CloseIdleConnections()
	image, err := remote.Image(r, remote.WithContext(s.t.Context()), remote.WithTransport(transport), remote.WithAuth(&authn.Basic{Username: user, Password: password}))
	if err != nil {
		return err
	}
	return validate.Image(image)
}

// The credentials that a device fetches open the registry for as long as it may
// come in.
func TestImagesForDevicesThatMayComeIn(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.push("localhost/app:1")
	s.push("localhost/secret:1")
	device := s.holder("edge-1").enroll(s.token(map[string]string{"group": "a"}))
	c := device.connect()
	c.settle()
	ask := func() wire.RegistryReply {
		return send[wire.RegistryReply](c, wire.KindRegistry, wire.RegistryRequest{})
	}
	reply := ask()
	host := strings.TrimPrefix(s.enrollURL(), "https://")
	if reply.Error != nil || reply.User != "edge-1" || !slices.Contains(reply.Registries, host) {
		t.Fatalf("the device gets %v, %q", reply.Error, reply.Registries)
	}
	image := host + "/app:1"
	denied := func(image string) {
		t.Helper()
		if err := s.pull(image, reply.User, reply.Password); err == nil || !strings.Contains(err.Error(), "DENIED") {
			t.Errorf("%s: error is %v", image, err)
		}
	}
	denied(image)
	s.deployImage("app", "a", image)
	s.deployImage("other", "b", host+"/secret:1")
	eventually(t, "a manifest that names the image", func() error { return s.pull(image, reply.User, reply.Password) })
	denied(host + "/secret:1") // which another device runs
	refused := func(what, user, password string) {
		t.Helper()
		if err := s.pull(image, user, password); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
			t.Errorf("%s: error is %v", what, err)
		}
	}
	refused("nobody", "", "")
	refused("another", "edge-2", reply.Password)

	// Renewal with a new key makes the old credentials worthless, and gives others.
	key := newKey(t)
	device.take(device.renew(key), key)
	c.Close()
	c = device.connect()
	c.settle()
	c.Close()
	eventually(t, "the key of the object", func() error {
		d, err := s.client().Devices().Get(t.Context(), "edge-1", metav1.GetOptions{})
		if err == nil && d.Spec.Enrollment.NextKeyFingerprint != "" {
			err = errors.New("the next key was not used")
		}
		return err
	})
	c = device.connect()
	eventually(t, "the new session is the device", func() error {
		c.snapshot()
		if reply := ask(); reply.Error != nil {
			return reply.Error
		}
		return nil
	})
	refused("the key before", reply.User, reply.Password)
	reply = ask()
	if err := s.pull(image, reply.User, reply.Password); err != nil {
		t.Fatal(err)
	}
	s.editDevice("edge-1", func(d *v1alpha1.Device) { d.Spec.Revoked = true })
	eventually(t, "revoked", func() error {
		if err := s.pull(image, reply.User, reply.Password); err == nil {
			return os.ErrExist
		}
		return nil
	})
	refused("a revoked device", reply.User, reply.Password)
}

// deployImage creates a Deployment of an image for a group.
func (s *server) deployImage(called, group, image string) {
	s.t.Helper()
	d := deployment(called, group)
	d.Spec.Score.Data.Raw = fmt.Appendf(nil, `{"services":[{"name":"web","image":%q}]}`, image)
	s.create(d)
}

// A device gets images of another registry through its gateway, those that its manifest names
// by that registry's name, and they cross the way there once.
func TestImagesOfAnotherRegistry(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	store := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			asked.Add(1)
		}
		store.ServeHTTP(w, r)
	}))
	defer far.Close()
	away := strings.TrimPrefix(far.URL, "http://")
	for _, called := range []string{"app:1", "secret:1"} {
		image, err := random.Image(100_000, 3)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(away + "/team/" + called)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, image, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	s := newServer(t, func(c *embedserver.Config) {
		c.Images = embedserver.ImageCache{Upstreams: []string{far.URL}, Size: 1 << 30}
	})
	s.deployImage("app", "a", away+"/team/app:1")
	here := strings.TrimPrefix(s.enrollURL(), "https://") + "/" + strings.ReplaceAll(away, ":", "__") + "/team/"
	for _, device := range []string{"edge-1", "edge-2"} {
		c := s.holder(device).enroll(s.token(map[string]string{"group": "a"})).connect()
		c.settle()
		reply := send[wire.RegistryReply](c, wire.KindRegistry, wire.RegistryRequest{})
		eventually(t, "a manifest that names the image", func() error { return s.pull(here+"app:1", reply.User, reply.Password) })
		if err := s.pull(here+"secret:1", reply.User, reply.Password); err == nil || !strings.Contains(err.Error(), "DENIED") {
			t.Errorf("an image that no manifest names: %v", err)
		}
	}
	if got := asked.Load(); got != 4 { // three layers and a configuration
		t.Errorf("the other registry was asked for %d blobs", got)
	}
}

// imageBytes is the size of the image that many devices pull; FLEET_IMAGE_MB has another one.
func imageBytes(t *testing.T) int64 {
	t.Helper()
	n, err := strconv.ParseInt(cmp.Or(os.Getenv("FLEET_IMAGE_MB"), "4"), 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("FLEET_IMAGE_MB is no size: %v", err)
	}
	return n * 1_000_000
}

// counted counts the bytes of answers.
type counted struct {
	http.ResponseWriter

	bytes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// Ten devices pull an image at the same time, and it crosses the way to its registry once.
func TestTenDevicesPullAnImageOnce(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	store := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { store.ServeHTTP(counted{w, &sent}, r) }))
	defer far.Close()
	away, size := strings.TrimPrefix(far.URL, "http://"), imageBytes(t)
	image, err := random.Image(size/4, 4)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(away + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(c *embedserver.Config) {
		c.Images = embedserver.ImageCache{Upstreams: []string{far.URL}, Size: 1 << 40}
	})
	s.deployImage("app", "a", away+"/team/app:1")
	here := strings.TrimPrefix(s.enrollURL(), "https://") + "/" + strings.ReplaceAll(away, ":", "__") + "/team/app:1"
	logins := make([]wire.RegistryReply, 10)
	for n := range logins {
		c := s.holder(fmt.Sprintf("edge-%d", n)).enroll(s.token(map[string]string{"group": "a"})).connect()
		c.settle()
		logins[n] = send[wire.RegistryReply](c, wire.KindRegistry, wire.RegistryRequest{})
	}
	sent.Store(0)
	began := time.Now()
	var all sync.WaitGroup
	for _, l := range logins {
		all.Go(func() {
			if err := s.pull(here, l.User, l.Password); err != nil {
				t.Errorf("%s: %v", l.User, err)
			}
		})
	}
	all.Wait()
	share := float64(sent.Load()) / float64(size)
	t.Logf("ten devices pulled %d MB in %v: %.4f of that crossed the way to the registry", size/1_000_000, time.Since(began).Round(time.Millisecond), share)
	if share > 1.05 {
		t.Errorf("%.3f times the image crossed the way to the registry", share)
	}
}

// Downloads that never end leave enrollment alone.
func TestStalledDownloadsDisturbNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	maker, err := releasetest.NewMaker()
	if err != nil {
		t.Fatal(err)
	}
	files, err := maker.Files("1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	files["large.deb.txt"] = make([]byte, 32<<20) // more than sockets hold
	dir := t.TempDir()
	if err := maker.Write(dir, files); err != nil {
		t.Fatal(err)
	}
	source, err := release.OpenSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := release.Open(s.config.DataDir).Import(s.t.Context(), release.Import{Source: source, Key: maker.PublicKey(), Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(s.enrollURL(), "https://")
	for range 50 {
		stall(t, host, s)
	}
	begin := time.Now()
	s.holder("edge-1").enroll(s.token(nil)).connect().settle()
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("enrollment took %v", took)
	}
}

// stall asks for the large file and reads none of it.
func stall(t *testing.T, host string, s *server) {
	t.Helper()
	dialer := tls.Dialer{NetDialer: &net.Dialer{}, Config: &tls.Config{RootCAs: s.roots()}}
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write([]byte("GET /packages/mirror/1.0.0/large.deb.txt HTTP/1.1\r\nHost: " + host + "\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
}
