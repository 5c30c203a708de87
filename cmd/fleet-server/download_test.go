package main

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"fleet.nationtech.io/fleet/pkg/wire"
	"fleet.nationtech.io/fleet/test/releasetest"
)

// get fetches a path of the enrollment listener as curl -k --pinnedpubkey does:
// whoever has the key is the server.
func (s *server) get(pin, path string) (int, string) {
	s.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			sum := sha256.Sum256(c.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if got := "sha256//" + base64.StdEncoding.EncodeToString(sum[:]); got != pin {
				s.t.Errorf("the server's key is %s, want %s", got, pin)
			}
			return nil
		},
	}}
	r, err := (&http.Client{Transport: transport}).Get("https://" + s.ready.Enroll.String() + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return r.StatusCode, string(data)
}

// writeRelease returns the directory of a release and the file with its key.
func writeRelease(t testing.TB, more map[string][]byte) (dir, key string) {
	t.Helper()
	maker, err := releasetest.NewMaker()
	if err != nil {
		t.Fatal(err)
	}
	files, err := maker.Files("1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range more {
		files[name] = data
	}
	dir = t.TempDir()
	if err := maker.Write(dir, files); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, "release.pub")
}

func imageArchive(t testing.TB, called string) string {
	t.Helper()
	tag, err := name.NewTag(called)
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		t.Fatal(err)
	}
	return path
}

var oneLiner = regexp.MustCompile(`(?m)^  curl -fsS -k --pinnedpubkey '(sha256//[^']+)' (https://[^ ]+)/install\.sh \| FLEET_TOKEN='([^']+)' sh$`)

// TestInstallFromTheGateway goes from a server that holds nothing to one that
// devices are installed from.
func TestInstallFromTheGateway(t *testing.T) {
	t.Parallel()
	s := start(t)
	stdout, stderr, err := s.both("token", "create")
	if err != nil || oneLiner.MatchString(stderr) || !strings.Contains(stderr, "fleet-server bundle import") {
		t.Fatalf("without a release it says %q, %v", stderr, err)
	}
	if _, err := wire.ParseToken(stdout); err != nil {
		t.Fatalf("standard output is %q: %v", stdout, err)
	}
	if _, err := s.try("bundle", "show"); err == nil {
		t.Error("a release is shown that is not there")
	}

	image, err := os.ReadFile(imageArchive(t, "localhost/bundled:1"))
	if err != nil {
		t.Fatal(err)
	}
	dir, key := writeRelease(t, map[string][]byte{"images/bundled.tar": image})
	for _, args := range [][]string{{dir}, {"--release-key", key, "--allow-unsigned", dir}, {"--release-key", filepath.Join(dir, "version"), dir}, {"--release-key", key, filepath.Join(dir, "version")}} {
		if _, err := s.try(append([]string{"bundle", "import"}, args...)...); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error is %v", args, err)
		}
	}
	if out := s.run("bundle", "import", "--release-key", key, dir); out != "image bundled:1\nrelease 1.2.3 is served from now on\n" {
		t.Errorf("import says %q", out)
	}
	if out := s.run("bundle", "show"); out != "1.2.3\n" {
		t.Errorf("show says %q", out)
	}

	stdout, stderr, err = s.both("token", "create")
	m := oneLiner.FindStringSubmatch(stderr)
	if err != nil || m == nil {
		t.Fatalf("it says %q, %v", stderr, err)
	}
	pin, url, token := m[1], m[2], m[3]
	parsed, err := wire.ParseToken(token)
	if err != nil || token+"\n" != stdout {
		t.Fatalf("the token is %q, not %q, %v", token, stdout, err)
	}
	if !strings.HasSuffix(url, ":"+port(s.ready.Enroll)) {
		t.Errorf("the address is %s", url)
	}
	status, script := s.get(pin, "/install.sh")
	for _, want := range []string{
		"\nGATEWAY_URL='https://" + s.ready.Enroll.String() + "'\n", "\nGATEWAY_CA_HASH='" + parsed.CAHash.String() + "'\n", "\nGATEWAY_PUBKEY_PIN='" + pin + "'\n",
	} {
		if status != http.StatusOK || !strings.Contains(script, want) {
			t.Errorf("install.sh is %d and lacks %q: %s", status, want, script)
		}
	}
	if status, version := s.get(pin, "/packages/mirror/stable/version"); status != http.StatusOK || version != "1.2.3\n" {
		t.Errorf("the version is %d %q", status, version)
	}
	// The pin is good after every certificate has been issued again.
	s.run("ca", "rotate", "--root")
	if status, _ := s.get(pin, "/packages/keys.asc"); status != http.StatusOK {
		t.Errorf("after a rotation it is %d", status)
	}
	if status, body := s.get(pin, "/v1/ca"); status != http.StatusOK {
		t.Errorf("enrollment is %d", status)
	} else if block, _ := pem.Decode([]byte(body)); block == nil {
		t.Error("enrollment has no root")
	}
	for path, want := range map[string]int{"/": 404, "/packages/": 404, "/v2/": 401, "/v2/bundled/manifests/1": 401} {
		if status, _ := s.get(pin, path); status != want {
			t.Errorf("%s is %d, want %d", path, status, want)
		}
	}
}

func TestImageCommands(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func(args ...string) (string, error) {
		s := &server{t: t, dir: dir}
		return s.try(append([]string{"image"}, args...)...)
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(args...)
		if err != nil {
			t.Fatalf("%q: %v", args, err)
		}
		return out
	}
	archive := imageArchive(t, "registry.example.com/team/app:1")
	if out := must("push", archive); out != "team/app:1\n" {
		t.Errorf("push says %q", out)
	}
	if out := must("push", "--name", "web:2", archive); out != "web:2\n" {
		t.Errorf("push says %q", out)
	}
	if out := must("list"); !strings.Contains(out, "team/app:1 ") || !strings.Contains(out, "web:2 ") {
		t.Errorf("list says %q", out)
	}
	must("remove", "web:2")
	must("remove", "team/app:1")
	if out := must("gc"); !strings.HasSuffix(out, "MiB freed\n") {
		t.Errorf("gc says %q", out)
	}
	if out := must("list"); strings.Contains(out, "app") {
		t.Errorf("list says %q", out)
	}
	for _, args := range [][]string{
		{"push", "/none.tar"}, {"push", "no such image"}, {"push", "--name", "a", archive, archive}, {"push", "--name", "A", archive}, {"push", "--platform", "x", archive},
		{"remove", "web:2"}, {"remove", "A"}, {"push"},
	} {
		if _, err := run(args...); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error is %v", args, err)
		}
	}
}
