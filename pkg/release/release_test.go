package release_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/release"
	"fleet.nationtech.io/fleet/pkg/release/rpmrepo"
	"fleet.nationtech.io/fleet/pkg/release/signing"
	"fleet.nationtech.io/fleet/test/releasetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway is a data directory with a handler of its store.
type gateway struct {
	t     testing.TB
	dir   string
	store *release.Store
	maker *releasetest.Maker
	told  release.Gateway
}

// maker and signingKey are made once: keys take a second each.
var (
	maker      = sync.OnceValues(releasetest.NewMaker)
	signingKey = sync.OnceValues(func() ([]byte, error) {
		dir, err := os.MkdirTemp("", "signing-key")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "key.asc")
		if _, err := signing.Open(path, time.Now()); err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	})
)

func newGateway(t testing.TB) *gateway {
	t.Helper()
	m, err := maker()
	must(t, err)
	key, err := signingKey()
	must(t, err)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "release"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "release", "signing-key.asc"), key, 0o600))
	return &gateway{t: t, dir: dir, store: release.Open(dir), maker: m, told: release.Gateway{
		URL: "https://[2001:db8::1]:8443", CAHash: strings.Repeat("0a", 32), Pin: "sha256//" + strings.Repeat("A", 42) + "+=",
	}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (g *gateway) importAs(path string, change func(*release.Import)) (string, error) {
	source, err := release.OpenSource(path)
	if err != nil {
		return "", err
	}
	defer source.Close()
	i := release.Import{
		Source: source, Key: g.maker.PublicKey(), Now: time.Now,
		Images: func(string) error { return errors.New("no image was expected") },
	}
	if change != nil {
		change(&i)
	}
	return g.store.Import(g.t.Context(), i)
}

// release writes a release into a new directory, changed before it is signed.
func (g *gateway) release(version string, change func(files map[string][]byte)) string {
	g.t.Helper()
	files, err := g.maker.Files(version)
	must(g.t, err)
	if change != nil {
		change(files)
	}
	dir := g.t.TempDir()
	must(g.t, g.maker.Write(dir, files))
	return dir
}

func (g *gateway) get(path string, header ...string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return g.do(r)
}

func (g *gateway) do(r *http.Request) *http.Response {
	w := httptest.NewRecorder()
	h := &release.Handler{
		Store: g.store, Logger: slog.New(slog.NewTextHandler(g.t.Output(), nil)),
		Gateway: func(*http.Request) (release.Gateway, error) { return g.told, nil },
	}
	h.ServeHTTP(w, r)
	return w.Result()
}

func (g *gateway) body(path string) string {
	g.t.Helper()
	r := g.get(path)
	data, err := io.ReadAll(r.Body)
	must(g.t, err)
	if r.StatusCode != http.StatusOK {
		g.t.Fatalf("%s: %s: %s", path, r.Status, data)
	}
	return string(data)
}

func (g *gateway) status(want int, paths ...string) {
	g.t.Helper()
	for _, path := range paths {
		if r := g.get(path); r.StatusCode != want {
			g.t.Errorf("%q is answered with %s, want %d", path, r.Status, want)
		}
	}
}

func TestNothingIsServedBeforeAnImport(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.status(http.StatusNotFound, "/install.sh", "/packages/keys.asc", "/packages/", "/packages/mirror/stable/version")
	if _, err := g.store.Version(); !errors.Is(err, release.ErrNone) {
		t.Errorf("the version is an error %v", err)
	}
}

func TestMirror(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	dir := g.release("1.2.3", nil)
	version, err := g.importAs(dir, nil)
	must(t, err)
	if version != "1.2.3" {
		t.Errorf("version is %q", version)
	}
	if got := g.body("/packages/mirror/stable/version"); got != "1.2.3\n" {
		t.Errorf("stable is %q", got)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		want, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		if got := g.body("/packages/mirror/1.2.3/" + e.Name()); got != string(want) {
			t.Errorf("%s differs", e.Name())
		}
	}
}

func TestReleasesFollowOneAnother(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for _, version := range []string{"1.0.0", "1.1.0", "1.1.0"} {
		data, err := releasetest.Tar(g.release(version, nil))
		must(t, err)
		bundle := filepath.Join(t.TempDir(), "bundle.tar")
		must(t, os.WriteFile(bundle, data, 0o600))
		_, err = g.importAs(bundle, nil)
		must(t, err)
		if got := g.body("/packages/mirror/stable/version"); got != version+"\n" {
			t.Errorf("stable is %q", got)
		}
	}
	g.status(http.StatusNotFound, "/packages/mirror/1.0.0/version")
	// One release, its link, the key and the lock: nothing else stays.
	entries, err := os.ReadDir(filepath.Join(g.dir, "release"))
	must(t, err)
	if len(entries) != 4 {
		t.Errorf("there are %v", entries)
	}
	info, err := os.Stat(filepath.Join(g.dir, "release", "signing-key.asc"))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the signing key has mode %v", info.Mode())
	}
}

// An import that fails leaves what was served, and nothing of itself.
func TestRefusedReleases(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	inRelease := g.body("/packages/apt/dists/stable/InRelease")
	other, err := releasetest.NewMaker()
	must(t, err)
	damage := func(name string, change func(path string) error) func() string {
		return func() string {
			dir := g.release("2.0.0", nil)
			must(t, change(filepath.Join(dir, name)))
			return dir
		}
	}
	write := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	signed := func(change func(map[string][]byte)) func() string {
		return func() string { return g.release("2.0.0", change) }
	}
	for name, tc := range map[string]struct {
		dir  func() string
		want error
	}{
		"another maker": {func() string {
			files, err := other.Files("2.0.0")
			must(t, err)
			dir := t.TempDir()
			must(t, other.Write(dir, files))
			return dir
		}, release.ErrSignature},
		"no signature":             {damage("checksums.txt.sig", os.Remove), release.ErrSignature},
		"a damaged signature":      {damage("checksums.txt.sig", write("x")), release.ErrSignature},
		"no checksums":             {damage("checksums.txt", os.Remove), release.ErrContent},
		"changed checksums":        {damage("checksums.txt", write(strings.Repeat("0", 64)+"  version\n")), release.ErrSignature},
		"a tampered package":       {damage("fleet-agent_2.0.0_"+runtime.GOARCH+".deb", write("x")), release.ErrContent},
		"a tampered installer":     {damage("install.sh", write("echo pwned")), release.ErrContent},
		"a missing file":           {damage("install.sh", os.Remove), release.ErrContent},
		"a file too many":          {damage("more", write("x")), release.ErrContent},
		"a hidden file":            {damage(".profile", write("x")), release.ErrContent},
		"a directory too many":     {damage("etc", func(p string) error { return os.Mkdir(p, 0o700) }), release.ErrContent},
		"a link":                   {damage("install.sh", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) }), nil},
		"no version":               {signed(func(f map[string][]byte) { delete(f, "version") }), release.ErrContent},
		"a version with slashes":   {signed(func(f map[string][]byte) { f["version"] = []byte("../../x") }), release.ErrContent},
		"a version like a channel": {signed(func(f map[string][]byte) { f["version"] = []byte("stable") }), release.ErrContent},
		"a broken deb":             {signed(func(f map[string][]byte) { f["x.deb"] = []byte("x") }), nil},
		"a broken rpm":             {signed(func(f map[string][]byte) { f["x-1-1.x86_64.rpm"] = []byte("x") }), nil},
		"a broken key":             {signed(func(f map[string][]byte) { f["packages.asc"] = []byte("x") }), release.ErrContent},
		"an image":                 {signed(func(f map[string][]byte) { f["images/a.tar"] = []byte("x") }), nil},
	} {
		_, err := g.importAs(tc.dir(), nil)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error is %v, want %v", name, err, tc.want)
		}
		if g.body("/packages/apt/dists/stable/InRelease") != inRelease {
			t.Fatalf("%s: it took the place of what was served", name)
		}
	}
	entries, err := os.ReadDir(filepath.Join(g.dir, "release"))
	must(t, err)
	if len(entries) != 4 {
		t.Errorf("there are %v", entries)
	}
}

func TestHostileArchives(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	outside := filepath.Join(t.TempDir(), "outside")
	for name, headers := range map[string][]tar.Header{
		"a path upwards":    {{Name: "../outside", Typeflag: tar.TypeReg}},
		"an absolute path":  {{Name: outside, Typeflag: tar.TypeReg}},
		"a path within":     {{Name: "images/../../outside", Typeflag: tar.TypeReg}},
		"a symbolic link":   {{Name: "images", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)}},
		"a hard link":       {{Name: "version", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}},
		"a device":          {{Name: "version", Typeflag: tar.TypeChar}},
		"a pipe":            {{Name: "version", Typeflag: tar.TypeFifo}},
		"a directory":       {{Name: "etc", Typeflag: tar.TypeDir}},
		"a file twice":      {{Name: "version", Typeflag: tar.TypeReg}, {Name: "./version", Typeflag: tar.TypeReg}},
		"a name of control": {{Name: "a\nb", Typeflag: tar.TypeReg}},
		"too many":          slices.Repeat([]tar.Header{{Name: "version", Typeflag: tar.TypeReg}}, 2000),
		"huge":              {{Name: "version", Typeflag: tar.TypeReg, Size: 1 << 40}},
		"cut short":         {{Name: "version", Typeflag: tar.TypeReg, Size: 1 << 20}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			must(t, w.WriteHeader(&h))
		}
		bundle := filepath.Join(t.TempDir(), "bundle.tar")
		must(t, os.WriteFile(bundle, append(b.Bytes(), make([]byte, 1024)...), 0o600))
		if _, err := g.importAs(bundle, nil); !errors.Is(err, release.ErrContent) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("a file was written outside")
	}
}

// Nobody's bytes come to the disk before the maker vouches for them.
func TestNothingIsWrittenBeforeTheSignature(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	other, err := releasetest.NewMaker()
	must(t, err)
	foreign := t.TempDir()
	files, err := other.Files("2.0.0")
	must(t, err)
	must(t, other.Write(foreign, files))
	program := func(f map[string][]byte) { f["fleet-agent_2.0.0_linux_amd64"] = make([]byte, 1<<20) }
	tampered := g.release("2.0.0", nil)
	must(t, os.WriteFile(filepath.Join(tampered, "install.sh"), []byte("echo pwned"), 0o600))
	bundle := func(dir string, flags ...string) string {
		path := filepath.Join(t.TempDir(), "bundle.tar")
		entries, err := os.ReadDir(dir)
		must(t, err)
		args := append(flags, "-cf", path, "-C", dir)
		for _, e := range entries {
			args = append(args, e.Name())
		}
		if out, err := exec.CommandContext(t.Context(), "tar", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return path
	}
	// holes makes a file of the release one with holes, and its member of the bundle.
	holes := func(flags ...string) string {
		dir := g.release("2.0.0", program)
		must(t, os.Truncate(filepath.Join(dir, "fleet-agent_2.0.0_linux_amd64"), 0))
		must(t, os.Truncate(filepath.Join(dir, "fleet-agent_2.0.0_linux_amd64"), 1<<20))
		path := bundle(dir, append(flags, "--sparse")...)
		if info, err := os.Stat(path); err != nil || info.Size() > 1<<20 {
			t.Fatalf("the bundle has no holes: %v", err)
		}
		return path
	}
	store := filepath.Join(g.dir, "release")
	past := time.Now().Add(-time.Hour).Truncate(time.Second)
	written := func(path string) (bool, error) {
		must(t, os.Chtimes(store, past, past))
		_, err := g.importAs(path, nil)
		info, statErr := os.Stat(store)
		must(t, statErr)
		return !info.ModTime().Equal(past), err
	}
	for name, tc := range map[string]struct {
		path string
		want error
	}{
		"a directory of another maker": {foreign, release.ErrSignature},
		"a bundle of another maker":    {bundle(foreign), release.ErrSignature},
		"a tampered directory":         {tampered, release.ErrContent},
		"a tampered bundle":            {bundle(tampered), release.ErrContent},
		"holes, as GNU writes them":    {holes("--format=gnu"), release.ErrContent},
		"holes, as POSIX 0.0":          {holes("--format=posix", "--sparse-version=0.0"), release.ErrContent},
		"holes, as POSIX 0.1":          {holes("--format=posix", "--sparse-version=0.1"), release.ErrContent},
		"holes, as POSIX 1.0":          {holes("--format=posix", "--sparse-version=1.0"), release.ErrContent},
		"a file without end in a directory": {func() string {
			dir := g.release("2.0.0", nil)
			must(t, os.Truncate(filepath.Join(dir, "install.sh"), 1<<40))
			return dir
		}(), release.ErrContent},
		"a link in a directory": {func() string {
			dir := g.release("2.0.0", func(f map[string][]byte) { f["a"], f["b"] = []byte("x"), []byte("x") })
			must(t, os.Remove(filepath.Join(dir, "b")))
			must(t, os.Symlink("a", filepath.Join(dir, "b")))
			return dir
		}(), release.ErrContent},
	} {
		if wrote, err := written(tc.path); wrote || !errors.Is(err, tc.want) {
			t.Errorf("%s: error is %v, something was written: %t", name, err, wrote)
		}
	}
	if wrote, err := written(bundle(g.release("2.0.0", program))); !wrote || err != nil { // the control
		t.Errorf("error is %v, something was written: %t", err, wrote)
	}
}

func TestUnsignedOnlyWhenAsked(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	dir := g.release("1.0.0", nil)
	must(t, os.Remove(filepath.Join(dir, "checksums.txt.sig")))
	if _, err := g.importAs(dir, nil); !errors.Is(err, release.ErrSignature) {
		t.Errorf("error is %v", err)
	}
	_, err := g.importAs(dir, func(i *release.Import) { i.Key = nil })
	must(t, err)
}

func TestImagesGoToTheRegistry(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	dir := g.release("1.0.0", func(f map[string][]byte) { f["images/hello.tar"] = []byte("an image") })
	var got []string
	_, err := g.importAs(dir, func(i *release.Import) {
		i.Images = func(path string) error {
			data, err := os.ReadFile(path)
			got = append(got, filepath.Base(path)+" "+string(data))
			return err
		}
	})
	must(t, err)
	if !slices.Equal(got, []string{"hello.tar an image"}) {
		t.Errorf("images are %q", got)
	}
	g.status(http.StatusNotFound, "/packages/mirror/1.0.0/images/hello.tar")
}

func TestNothingElseIsServed(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(g.dir, "secret"), []byte("x"), 0o600))
	g.status(http.StatusNotFound,
		"/packages/", "/packages/mirror", "/packages/mirror/", "/packages/mirror/1.0.0", "/packages/apt/", "/packages//keys.asc",
		"/packages/../release/signing-key.asc", "/packages/../../secret", "/packages/mirror/../../../secret", "/packages/%2e%2e/%2e%2e/secret",
		"/packages/./keys.asc", "/packages/keys.asc/", "/packages/keys.asc%00", "/packages//etc/passwd", "/packages/..%2finstall.sh", "/packages/signing-key.asc",
	)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		if r := g.do(httptest.NewRequest(method, "/packages/keys.asc", nil)); r.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s is answered with %s", method, r.Status)
		}
	}
}

func TestRangesAndCaches(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	const path = "/packages/mirror/1.0.0/install.sh"
	r := g.get(path, "Range", "bytes=2-8")
	data, err := io.ReadAll(r.Body)
	must(t, err)
	if r.StatusCode != http.StatusPartialContent || string(data) != "/bin/sh" {
		t.Errorf("a range is %s %q", r.Status, data)
	}
	tag := r.Header.Get("ETag")
	if r := g.get(path, "If-None-Match", tag); r.StatusCode != http.StatusNotModified {
		t.Errorf("what is known already is %s", r.Status)
	}
	// apt asks by time, in whole seconds.
	if r := g.get("/packages/apt/dists/stable/InRelease", "If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)); r.StatusCode != http.StatusOK {
		t.Errorf("an index that may be of this second is %s", r.Status)
	}
	head := g.do(httptest.NewRequest(http.MethodHead, path, nil))
	if head.StatusCode != http.StatusOK || head.ContentLength != int64(len(releasetest.Installer)) {
		t.Errorf("HEAD is %s, %d bytes", head.Status, head.ContentLength)
	}
	_, err = g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	if r := g.get(path, "If-None-Match", tag); r.StatusCode != http.StatusOK {
		t.Errorf("after another import it is %s", r.Status)
	}
}

func TestInstallerIsFilledIn(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	script := g.body("/install.sh")
	for name, value := range map[string]string{"GATEWAY_URL": g.told.URL, "GATEWAY_CA_HASH": g.told.CAHash, "GATEWAY_PUBKEY_PIN": g.told.Pin} {
		if !strings.Contains(script, "\n"+name+"='"+value+"'\n") {
			t.Errorf("%s is not filled in: %s", name, script)
		}
	}
	good := g.told
	for _, bad := range []func(*release.Gateway){
		func(b *release.Gateway) { b.URL = "https://a';reboot;'" },
		func(b *release.Gateway) { b.URL = "https://a\nreboot" },
		func(b *release.Gateway) { b.URL = "http://a" },
		func(b *release.Gateway) { b.CAHash = "x" },
		func(b *release.Gateway) { b.Pin = "sha256//'" },
	} {
		g.told = good
		bad(&g.told)
		g.status(http.StatusNotFound, "/install.sh")
	}
	g.told = good
	for _, wrong := range []string{"#!/bin/sh\n", releasetest.Installer + "GATEWAY_URL=''\n", strings.Replace(releasetest.Installer, "GATEWAY_URL=''", "GATEWAY_URL='x'", 1)} {
		_, err := g.importAs(g.release("1.0.0", func(f map[string][]byte) { f["install.sh"] = []byte(wrong) }), nil)
		must(t, err)
		g.status(http.StatusNotFound, "/install.sh")
	}
}

// keys are those that the gateway hands out: its own first.
func (g *gateway) keys() openpgp.EntityList {
	g.t.Helper()
	return readKeys(g.t, g.body("/packages/keys.asc"))
}

func readKeys(t testing.TB, armored string) openpgp.EntityList {
	t.Helper()
	keys, err := openpgp.ReadArmoredKeyRing(strings.NewReader(armored))
	must(t, err)
	return keys
}

// clearText is a document without its signature, which has to be the gateway's.
func (g *gateway) clearText(path string) string {
	g.t.Helper()
	block, _ := clearsign.Decode([]byte(g.body(path)))
	if block == nil {
		g.t.Fatalf("%s is not signed", path)
	}
	_, err := block.VerifySignature(g.keys()[:1], nil)
	must(g.t, err)
	return string(block.Plaintext)
}

// repomd is the index of the dnf repository with its signature.
func (g *gateway) repomd() (index, signature string) {
	g.t.Helper()
	found, err := filepath.Glob(filepath.Join(g.dir, "release", "current", "www", "rpm", "*"))
	must(g.t, err)
	if len(found) != 1 {
		g.t.Fatalf("there are %v", found)
	}
	base := "/packages/rpm/" + filepath.Base(found[0]) + "/repodata/repomd.xml"
	return g.body(base), g.body(base + ".asc")
}

func TestAptRepository(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", func(f map[string][]byte) {
		deb, err := releasetest.Deb("fleet-server", "1.0.0")
		must(t, err)
		f["fleet-server_1.0.0_"+runtime.GOARCH+".deb"] = deb
	}), nil)
	must(t, err)
	keys := g.keys()
	if len(keys) != 2 {
		t.Errorf("there are %d keys", len(keys))
	}
	const dist = "/packages/apt/dists/stable/"
	text := g.body(dist + "Release")
	block, _ := clearsign.Decode([]byte(g.body(dist + "InRelease")))
	if block == nil || string(block.Plaintext) != text {
		t.Fatal("InRelease is not Release")
	}
	_, err = block.VerifySignature(keys[:1], nil)
	must(t, err)
	_, err = openpgp.CheckArmoredDetachedSignature(keys[:1], strings.NewReader(text), strings.NewReader(g.body(dist+"Release.gpg")), nil)
	must(t, err)

	index := "main/binary-" + runtime.GOARCH + "/Packages"
	packages := g.body(dist + index)
	z, err := gzip.NewReader(strings.NewReader(g.body(dist + index + ".gz")))
	must(t, err)
	unpacked, err := io.ReadAll(z)
	must(t, err)
	if string(unpacked) != packages {
		t.Error("Packages.gz is not Packages")
	}
	sum := sha256.Sum256([]byte(packages))
	line := fmt.Sprintf(" %x %d %s\n", sum, len(packages), index)
	if !strings.Contains(text, line) || g.body(dist+"main/binary-"+runtime.GOARCH+"/by-hash/SHA256/"+hex.EncodeToString(sum[:])) != packages {
		t.Errorf("Release lacks %q, or by-hash differs: %s", line, text)
	}
	stanzas := strings.Split(strings.TrimSpace(packages), "\n\n")
	if len(stanzas) != 2 {
		t.Fatalf("Packages is %s", packages)
	}
	deb := g.body("/packages/apt/pool/fleet-agent_1.0.0_" + runtime.GOARCH + ".deb")
	want := fmt.Sprintf("\nDescription: for a test\n more of it\nFilename: pool/fleet-agent_1.0.0_%s.deb\nSize: %d\nSHA256: %x", runtime.GOARCH, len(deb), sha256.Sum256([]byte(deb)))
	if !strings.HasPrefix(stanzas[0], "Package: fleet-agent\n") || !strings.HasSuffix(stanzas[0], want) {
		t.Errorf("the entry is %s", stanzas[0])
	}
}

func TestDnfRepository(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	_, err := g.importAs(g.release("1.0.0", nil), nil)
	must(t, err)
	found, err := filepath.Glob(filepath.Join(g.dir, "release", "1.0.0-*", "www", "rpm", "*"))
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("there are %v", found)
	}
	base := "/packages/rpm/" + filepath.Base(found[0]) + "/"
	index, signature := g.repomd()
	_, err = openpgp.CheckArmoredDetachedSignature(readKeys(t, g.body("/packages/packages.asc")), strings.NewReader(index), strings.NewReader(signature), nil)
	must(t, err)
	var repo struct {
		Data []struct {
			Type     string `xml:"type,attr"`
			Checksum string `xml:"checksum"`
			Location struct {
				Href string `xml:"href,attr"`
			} `xml:"location"`
		} `xml:"data"`
	}
	must(t, xml.Unmarshal([]byte(index), &repo))
	content := map[string]string{}
	for _, d := range repo.Data {
		packed := g.body(base + d.Location.Href)
		if sum := sha256.Sum256([]byte(packed)); hex.EncodeToString(sum[:]) != d.Checksum {
			t.Errorf("%s has another checksum", d.Location.Href)
		}
		z, err := gzip.NewReader(strings.NewReader(packed))
		must(t, err)
		data, err := io.ReadAll(z)
		must(t, err)
		content[d.Type] = string(data)
	}
	if got := slices.Sorted(maps.Keys(content)); !slices.Equal(got, []string{"filelists", "primary"}) {
		t.Fatalf("indexes are %v", got)
	}
	if want := "<file>" + releasetest.VersionFile("fleet-agent") + "</file>"; !strings.Contains(content["filelists"], want) {
		t.Errorf("the list lacks %s: %s", want, content["filelists"])
	}
	name := "fleet-agent-1.0.0-1." + filepath.Base(found[0]) + ".rpm"
	sum := sha256.Sum256([]byte(g.body(base + name)))
	for _, want := range []string{
		"<name>fleet-agent</name>", `<version epoch="0" ver="1.0.0" rel="1"></version>`, hex.EncodeToString(sum[:]), `<location href="` + name + `">`,
		"<description>for a test &amp; no more</description>", `<rpm:entry name="fleet-test" flags="GE" epoch="0" ver="1.2"></rpm:entry>`,
		`<rpm:entry name="fleet-test" flags="EQ" epoch="2" ver="1.3" rel="4"></rpm:entry>`, `<rpm:entry name="fleet-agent" flags="EQ" epoch="0" ver="1.0.0" rel="1"></rpm:entry>`,
	} {
		if !strings.Contains(content["primary"], want) {
			t.Errorf("the index lacks %s: %s", want, content["primary"])
		}
	}
	if strings.Contains(content["primary"], "rpmlib(") {
		t.Error("the index names what rpm itself requires")
	}
}

// TestIndexForDNFIsTheMakers: dnf does what an index says. What a gateway serves is
// what the maker signed, or nothing.
func TestIndexForDNFIsTheMakers(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	other, err := releasetest.NewMaker()
	must(t, err)
	repomd, primary, filelists, signature := releasetest.IndexFile(rpmrepo.RepomdName), releasetest.IndexFile(rpmrepo.PrimaryName),
		releasetest.IndexFile(rpmrepo.FilelistsName), releasetest.IndexFile(rpmrepo.SignatureName)
	foreign := func(f map[string][]byte) { must(t, other.Index(f)) }
	agent := func(f map[string][]byte) string {
		for name := range f {
			if strings.HasSuffix(name, ".rpm") {
				return name
			}
		}
		return ""
	}
	for name, change := range map[string]func(map[string][]byte){
		"another key":               foreign,
		"no signature":              func(f map[string][]byte) { delete(f, signature) },
		"no signature in it":        func(f map[string][]byte) { f[signature] = nil },
		"no key of packages":        func(f map[string][]byte) { delete(f, "packages.asc") },
		"a changed index":           func(f map[string][]byte) { f[repomd] = append(f[repomd], ' ') },
		"a changed list":            func(f map[string][]byte) { f[primary] = append(f[primary], 0) },
		"no list":                   func(f map[string][]byte) { delete(f, filelists) },
		"a list in another's place": func(f map[string][]byte) { f[primary], f[filelists] = f[filelists], f[primary] },
		"a part too many": func(f map[string][]byte) {
			f[releasetest.IndexFile("updateinfo.xml.gz")] = []byte("x")
			delete(f, agent(f))
		},
		"another package": func(f map[string][]byte) {
			rpm, err := g.maker.RPM("fleet-agent", "2.0.1")
			must(t, err)
			f[agent(f)] = rpm
		},
		"a package less": func(f map[string][]byte) { delete(f, agent(f)) },
		"a package more": func(f map[string][]byte) { f["more-1-1."+strings.Split(agent(f), ".")[3]+".rpm"] = f[agent(f)] },
		"one of a package more": func(f map[string][]byte) {
			f["more-1-1.x.rpm"] = f[agent(f)]
			must(t, g.maker.Index(f))
		},
	} {
		if _, err := g.importAs(g.release("2.0.0", change), nil); !errors.Is(err, release.ErrContent) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error is %v, want ErrContent", name, err)
		}
	}
	var notices []string
	importing := func(change func(map[string][]byte)) {
		t.Helper()
		notices = nil
		_, err := g.importAs(g.release("2.0.0", change), func(i *release.Import) { i.Notice = func(line string) { notices = append(notices, line) } })
		must(t, err)
	}
	importing(nil) // the control
	index, _ := g.repomd()
	if len(notices) > 0 || !strings.Contains(index, "primary") {
		t.Errorf("it says %q", notices)
	}
	// The server comes by another way, and devices take nothing but the agent.
	importing(func(f map[string][]byte) {
		f["fleet-server-2.0.0-1."+strings.Split(agent(f), ".")[3]+".rpm"] = f[agent(f)]
	})
	if found, err := filepath.Glob(filepath.Join(g.dir, "release", "current", "www", "rpm", "*", "fleet-server*")); err != nil || len(found) > 0 {
		t.Errorf("there is %v, %v", found, err)
	}
	// A release from before there was an index.
	importing(func(f map[string][]byte) {
		for _, name := range []string{repomd, signature, primary, filelists} {
			delete(f, name)
		}
	})
	if len(notices) != 1 || !strings.Contains(notices[0], "they need a newer release") {
		t.Errorf("it says %q", notices)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "release", "current", "www", "rpm")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("packages for dnf without a signed index are served: %v", err)
	}
	g.body("/packages/apt/dists/stable/InRelease")
}
