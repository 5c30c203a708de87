package release_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/test/releasetest"
)

// mirror is a web server with a release.
type mirror struct {
	*httptest.Server

	dir, caFile string

	mu    sync.Mutex // guards asked
	asked []string
}

// newMirror serves a release whose server programs are not there to be asked for.
// What handle answers is not served from the directory.
func newMirror(t *testing.T, g *gateway, handle func(w http.ResponseWriter, name string) bool) *mirror {
	t.Helper()
	m := &mirror{dir: g.release("1.2.3", func(files map[string][]byte) {
		files["fleet-server_1.2.3_amd64.deb"] = []byte("large")
		files["images/a.tar"] = []byte("an image")
	})}
	m.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/fleet/1.2.3/")
		m.mu.Lock()
		m.asked = append(m.asked, name)
		m.mu.Unlock()
		if handle == nil || !handle(w, name) {
			http.ServeFile(w, r, filepath.Join(m.dir, name))
		}
	}))
	m.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that clients end
	m.StartTLS()
	t.Cleanup(m.Close)
	m.caFile = filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(m.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Certificate().Raw}), 0o600))
	return m
}

func (m *mirror) requests() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	asked := m.asked
	m.asked = nil
	return asked
}

func (g *gateway) importFrom(address, caFile string, change func(*release.Import)) (version, progress string, err error) {
	u, err := url.Parse(address)
	must(g.t, err)
	var said strings.Builder
	source, err := release.OpenMirror(release.Mirror{URL: u, CAFile: caFile, Progress: &said})
	if err != nil {
		return "", "", err
	}
	defer source.Close()
	i := release.Import{Source: source, Key: g.maker.PublicKey(), Now: time.Now, Images: func(string) error { return nil }}
	if change != nil {
		change(&i)
	}
	version, err = g.store.Import(g.t.Context(), i)
	return version, said.String(), err
}

func TestImportFromAMirror(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	m := newMirror(t, g, nil)
	version, progress, err := g.importFrom(m.URL+"/fleet/1.2.3/", m.caFile, nil)
	if err != nil || version != "1.2.3" {
		t.Fatalf("the version is %q, %v", version, err)
	}
	if !strings.Contains(progress, "download install.sh, 0.0 MiB\n") || strings.Contains(progress, "fleet-server") {
		t.Errorf("it says %q", progress)
	}
	for _, name := range m.requests() {
		if strings.HasPrefix(name, "fleet-server") {
			t.Errorf("%s is downloaded, which no device needs", name)
		}
	}
	if r := g.get("/packages/mirror/stable/version"); r.StatusCode != http.StatusOK {
		t.Errorf("what was imported is not served: %s", r.Status)
	}
	// Again, and nothing but the list is looked at.
	if version, progress, err = g.importFrom(m.URL+"/fleet/1.2.3", m.caFile, nil); err != nil || version != "1.2.3" || progress != "" {
		t.Errorf("the second time: %q, %q, %v", version, progress, err)
	}
	if asked := m.requests(); len(asked) != 2 {
		t.Errorf("the second time %q are asked for", asked)
	}
}

func TestBadMirrors(t *testing.T) {
	t.Parallel()
	other, err := releasetest.NewMaker()
	must(t, err)
	tests := map[string]struct {
		handle  func(w http.ResponseWriter, name string) bool
		change  func(*release.Import)
		noCA    bool
		want    error
		message string
		asked   int
	}{
		"no key":          {change: func(i *release.Import) { i.Key = nil }, want: release.ErrNoKey},
		"key of another":  {change: func(i *release.Import) { i.Key = other.PublicKey() }, want: release.ErrSignature, asked: 2},
		"unknown CA":      {noCA: true, message: "check address, proxy, CA and clock"},
		"nothing there":   {handle: func(w http.ResponseWriter, _ string) bool { w.WriteHeader(http.StatusNotFound); return true }, message: "404 Not Found: is it the address of a release?", asked: 1},
		"a file is not":   {handle: onlyFor("version", func(w http.ResponseWriter) { w.WriteHeader(http.StatusGone) }), message: "/fleet/1.2.3/version: the mirror says 410 Gone"},
		"another content": {handle: onlyFor("version", func(w http.ResponseWriter) { fmt.Fprint(w, "9.9.9\n") }), want: release.ErrContent},
		"unknown length":  {handle: onlyFor("version", func(w http.ResponseWriter) { must(t, http.NewResponseController(w).Flush()) }), message: "does not say how long it is"},
		"half a file":     {handle: onlyFor("version", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); fmt.Fprint(w, "1.2") }), message: "unexpected EOF"},
		"an endless list": {handle: onlyFor("checksums.txt", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "4194304")
			_, _ = w.Write(make([]byte, 4<<20))
		}), want: release.ErrSignature, asked: 2},
		"a list of others": {handle: onlyFor("checksums.txt", func(w http.ResponseWriter) { fmt.Fprint(w, strings.Repeat("0", 64)+"  ../../x\n") }), want: release.ErrSignature, asked: 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			m := newMirror(t, g, tt.handle)
			if tt.noCA {
				m.caFile = ""
			}
			_, _, err := g.importFrom(m.URL+"/fleet/1.2.3", m.caFile, tt.change)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.message) || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is %v", err)
			}
			if asked := m.requests(); tt.asked > 0 && len(asked) != tt.asked {
				t.Errorf("%q are asked for, want %d requests", asked, tt.asked)
			}
			if _, err := g.store.Version(); !errors.Is(err, release.ErrNone) {
				t.Errorf("something is served: %v", err)
			}
		})
	}
}

func onlyFor(name string, answer func(http.ResponseWriter)) func(http.ResponseWriter, string) bool {
	return func(w http.ResponseWriter, asked string) bool {
		if asked == name {
			answer(w)
		}
		return asked == name
	}
}

// A mirror claims more than fits on the disk, or than a release may have.
func TestClaimsOfAMirror(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	var disk unix.Statfs_t
	must(t, unix.Statfs(g.dir, &disk))
	free := int64(disk.Bavail) * int64(disk.Bsize)
	for claim, want := range map[int64]error{free: release.ErrSpace, 1 << 40: release.ErrContent} {
		m := newMirror(t, g, onlyFor("version", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", strconv.FormatInt(claim, 10))
			fmt.Fprint(w, "1.2.3\n")
		}))
		if claim > 64<<30 {
			want = release.ErrContent
		}
		if _, _, err := g.importFrom(m.URL+"/fleet/1.2.3", m.caFile, nil); !errors.Is(err, want) {
			t.Errorf("a claim of %d bytes: error is %v, want %v", claim, err, want)
		}
	}
}

// standing is a web server that stops in the middle.
type standing struct{}

func (standing) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, ContentLength: 100, Body: body{r.Context()}}, nil
}

type body struct{ ctx context.Context }

func (b body) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

func (body) Close() error { return nil }

func TestAMirrorStandsStill(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	synctest.Test(t, func(t *testing.T) {
		source := release.OpenMirrorThrough(release.Mirror{URL: &url.URL{Scheme: "https", Host: "mirror.example"}, Progress: io.Discard}, standing{})
		_, err := g.store.Import(t.Context(), release.Import{Source: source, Key: g.maker.PublicKey(), Now: time.Now})
		if err == nil || err.Error() != "downloading https://mirror.example/checksums.txt: nothing came for 1m0s" {
			t.Errorf("the error is %v", err)
		}
	})
}

// dripping is a web server that sends a byte every half a minute.
type dripping struct{}

func (dripping) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, ContentLength: 1 << 20, Body: drops{r.Context()}}, nil
}

type drops struct{ ctx context.Context }

func (d drops) Read(p []byte) (int, error) {
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-time.After(25 * time.Second):
		return copy(p, "0"), nil
	}
}

func (drops) Close() error { return nil }

func TestAMirrorDrips(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	synctest.Test(t, func(t *testing.T) {
		source := release.OpenMirrorThrough(release.Mirror{URL: &url.URL{Scheme: "https", Host: "mirror.example"}, Progress: io.Discard}, dripping{})
		_, err := g.store.Import(t.Context(), release.Import{Source: source, Key: g.maker.PublicKey(), Now: time.Now})
		if err == nil || err.Error() != "downloading https://mirror.example/checksums.txt: only 2 bytes came in 1m0s" {
			t.Errorf("the error is %v", err)
		}
	})
}
