package main

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// image is an archive with one file.
func image(t *testing.T, path, name string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, path, b.Bytes())
	return path
}

// TestBundle makes one twice: the same bytes each time, and what tar, openssl
// and sha256sum expect.
func TestBundle(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1767230645")
	t.Chdir("../..")
	dir := t.TempDir()
	dist := filepath.Join(dir, "dist")
	if err := os.Mkdir(dist, 0o755); err != nil {
		t.Fatal(err)
	}
	keys := keyFiles{cache: filepath.Join(dir, "keys")}
	r := release{dir: dist, version: version, channels: []string{"stable", "edge"}, time: must(sourceDate()), keys: keys}
	if err := r.publish(must(keys.load())); err != nil {
		t.Fatal(err)
	}
	images := image(t, filepath.Join(dir, "web"), "oci-layout") + " " + image(t, filepath.Join(dir, "db.tar"), "./manifest.json")
	var made [2][]byte
	for i := range made {
		out := filepath.Join(dir, "bundle.tar")
		if err := run(t.Context(), []string{"bundle", "-repo", ".", "-dir", dist, "-images", images, "-out", out, "-keys", keys.cache}); err != nil {
			t.Fatal(err)
		}
		made[i] = must(os.ReadFile(out))
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("it differs the second time")
	}
	check := `mkdir out && cd out && tar -xf ../bundle.tar && sha256sum --quiet -c checksums.txt &&
		openssl dgst -sha256 -verify release.pub -signature checksums.txt.sig checksums.txt && find . -type f | sort`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", check)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := "Verified OK\n./checksums.txt\n./checksums.txt.sig\n./images/db.tar\n./images/web.tar\n./install.sh\n./packages.asc\n./release.pub\n./release.txt\n./version\n"
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
	// The same images, a minute later.
	if err := run(t.Context(), []string{"bundle", "-repo", ".", "-dir", dist, "-images", images, "-out", filepath.Join(dir, "bundle.tar"), "-keys", keys.cache, "-time", "1767230705"}); err != nil {
		t.Fatal(err)
	}
	about := command(t, dir, "tar", "-xOf", "bundle.tar", "release.txt")
	if want := "Version: " + version + "\nDate: 2026-01-01T01:24:05Z\nChannels: stable edge\nBundled: 2026-01-01T01:25:05Z\n"; about != want {
		t.Errorf("release.txt is %q, want %q", about, want)
	}
}

func TestBundleRefuses(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1767230645")
	t.Chdir(".")
	dir := t.TempDir()
	other := image(t, filepath.Join(dir, "a.tar"), "README")
	twice := image(t, filepath.Join(dir, "web"), "index.json") + " " + image(t, filepath.Join(dir, "web.tar"), "index.json")
	for images, want := range map[string]string{
		other:      "not a container image",
		dir + "/b": "no such file",
		twice:      "two images are called",
	} {
		err := run(t.Context(), []string{"bundle", "-repo", ".", "-dir", dir, "-images", images, "-out", dir + "/out.tar", "-keys", dir + "/keys"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := os.Stat(dir + "/out.tar"); err == nil {
			t.Error("it left a file")
		}
	}
}
