package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const changelog = `# Changelog

## [Unreleased]

### Added

- something

## [1.2.3-rc.1] - 2026-12-31

### Fixed

- a mistake

## [1.2.2] - 2026-12-01

### Fixed

[Unreleased]: https://example.com
`

// checkout has what a release takes from one beside its packages.
func checkout(t *testing.T) string {
	t.Helper()
	repo := t.TempDir()
	write(t, filepath.Join(repo, "install.sh"), must(os.ReadFile("../../install.sh")))
	write(t, filepath.Join(repo, "CHANGELOG.md"), []byte(changelog))
	if err := os.MkdirAll(filepath.Join(repo, "docs/reference"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(repo, "docs/reference/podman-v0.schema.json"), []byte("{}"))
	if err := os.MkdirAll(filepath.Join(repo, "packaging/kubectl"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"LICENSE", "packaging/kubectl/kubectl_complete-fleet", "packaging/kubectl/kubectl_complete-fleet.cmd"} {
		write(t, filepath.Join(repo, name), must(os.ReadFile(filepath.Join("../..", name))))
	}
	return repo
}

// packagesOf is what make packages makes, without packages: TestRelease is about
// these. The binaries have what a bill of materials says of them.
func packagesOf(t *testing.T, repo string, files keyFiles) string {
	t.Helper()
	dist := t.TempDir()
	self := must(os.ReadFile(must(os.Executable())))
	for _, p := range programs {
		write(t, filepath.Join(dist, fmt.Sprintf("%s_%s_linux_arm", p, version)), self)
	}
	t.Chdir(repo)
	r := release{dir: dist, version: version, channels: []string{"stable"}, time: must(sourceDate()), keys: files}
	if err := r.publish(must(files.load())); err != nil {
		t.Fatal(err)
	}
	return dist
}

// pluginsOf is what make plugins makes.
func pluginsOf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self := must(os.ReadFile(must(os.Executable())))
	for _, platform := range []string{"darwin_arm64", "windows_amd64"} {
		write(t, filepath.Join(dir, fmt.Sprintf("kubectl-fleet_%s_%s", version, platform)), self)
	}
	return dir
}

// gathered makes a release of packages and a bundle of them.
func gathered(t *testing.T, repo, packages, plugins, keys string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "release")
	bundle := filepath.Join(t.TempDir(), "bundle.tar")
	if err := run(t.Context(), []string{"bundle", "-repo", repo, "-dir", packages, "-out", bundle, "-keys", keys}); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{
		"gather", "-repo", repo, "-version", version, "-arches", "armhf", "-revision", "0f1e2d",
		"-packages", packages, "-plugins", plugins, "-bundle", bundle, "-dir", dir, "-keys", keys,
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestGather makes all that is published, twice: the same bytes each time, all of
// them in the list that the key of the release signed.
func TestGather(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1798766645")
	t.Chdir(".") // run changes it
	keys := filepath.Join(t.TempDir(), "keys")
	repo := checkout(t)
	packages := packagesOf(t, repo, keyFiles{cache: keys})
	plugins := pluginsOf(t)
	first, second := gathered(t, repo, packages, plugins, keys), gathered(t, repo, packages, plugins, keys)
	if diff := cmp.Diff(sums(t, first), sums(t, second)); diff != "" {
		t.Errorf("the second time: %s", diff)
	}
	want := append(names(t, packages),
		"CHANGES.md", "fleet-bundle_1.2.3~rc.1.tar", "fleet-server_1.2.3~rc.1_oci.tar", "podman-v0.schema.json",
		"fleet-agent_1.2.3~rc.1_linux_arm.cdx.json", "fleet-server_1.2.3~rc.1_linux_arm.cdx.json",
		"kubectl-fleet_1.2.3~rc.1_darwin_arm64.tar.gz", "kubectl-fleet_1.2.3~rc.1_darwin_arm64.cdx.json",
		"kubectl-fleet_1.2.3~rc.1_windows_amd64.zip", "kubectl-fleet_1.2.3~rc.1_windows_amd64.cdx.json")
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), names(t, first)); diff != "" {
		t.Error(diff)
	}
	command(t, first, "openssl", "dgst", "-sha256", "-verify", "release.pub", "-signature", "checksums.txt.sig", "checksums.txt")
	command(t, first, "sha256sum", "--strict", "--quiet", "-c", "checksums.txt")
	list := string(must(os.ReadFile(filepath.Join(first, "checksums.txt"))))
	if got, want := strings.Count(list, "\n"), len(names(t, first))-2; got != want {
		t.Errorf("%d files have a checksum, want %d", got, want)
	}
	if got, want := string(must(os.ReadFile(filepath.Join(first, "CHANGES.md")))), "# fleet 1.2.3~rc.1\n\n### Fixed\n\n- a mistake\n"; got != want {
		t.Errorf("the changes are %q, want %q", got, want)
	}
	checkMaterials(t, first)
	checkPlugins(t, first, plugins)
}

// checkPlugins unpacks the archives of the plugin: each holds the program, and what
// kubectl asks for completions, both ready to run.
func checkPlugins(t *testing.T, dir, plugins string) {
	t.Helper()
	program := string(must(os.ReadFile(filepath.Join(plugins, "kubectl-fleet_1.2.3~rc.1_darwin_arm64"))))
	check := func(archive string, got map[string]string, executable []string, want ...string) {
		if diff := cmp.Diff(slices.Sorted(slices.Values(append(want, "LICENSE"))), slices.Sorted(maps.Keys(got))); diff != "" {
			t.Errorf("%s: %s", archive, diff)
		}
		slices.Sort(executable)
		if diff := cmp.Diff(slices.Sorted(slices.Values(want)), executable); diff != "" {
			t.Errorf("%s: what can be run: %s", archive, diff)
		}
		if got[want[0]] != program || !strings.Contains(got[want[1]], "__complete") {
			t.Errorf("%s holds another program", archive)
		}
	}
	const unix, windows = "kubectl-fleet_1.2.3~rc.1_darwin_arm64.tar.gz", "kubectl-fleet_1.2.3~rc.1_windows_amd64.zip"
	got, executable := map[string]string{}, []string(nil)
	r := tar.NewReader(must(gzip.NewReader(bytes.NewReader(must(os.ReadFile(filepath.Join(dir, unix)))))))
	for h, err := r.Next(); err == nil; h, err = r.Next() {
		got[h.Name] = string(must(io.ReadAll(r)))
		if h.Mode&0o111 != 0 {
			executable = append(executable, h.Name)
		}
	}
	check(unix, got, executable, "kubectl-fleet", "kubectl_complete-fleet")
	got, executable = map[string]string{}, nil
	z := must(zip.OpenReader(filepath.Join(dir, windows)))
	defer z.Close()
	for _, f := range z.File {
		got[f.Name] = string(must(io.ReadAll(must(f.Open()))))
		if f.Mode()&0o111 != 0 {
			executable = append(executable, f.Name)
		}
	}
	check(windows, got, executable, "kubectl-fleet.exe", "kubectl_complete-fleet.cmd")
}

// checkMaterials: a bill names the binary beside it and what is linked there.
func checkMaterials(t *testing.T, dir string) {
	t.Helper()
	var bill struct {
		BOMFormat string
		Metadata  struct {
			Component struct {
				Name, Version string
				Hashes        []struct{ Alg, Content string }
			}
		}
		Components []struct{ Name, Version, PURL string }
	}
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(dir, "fleet-agent_1.2.3~rc.1_linux_arm.cdx.json"))), &bill); err != nil {
		t.Fatal(err)
	}
	c := bill.Metadata.Component
	if bill.BOMFormat != "CycloneDX" || c.Name != "fleet-agent" || c.Version != version {
		t.Errorf("the bill is of %+v", bill.Metadata)
	}
	if len(c.Hashes) != 1 || c.Hashes[0].Content != sums(t, dir)["fleet-agent_1.2.3~rc.1_linux_arm"] {
		t.Errorf("it is of the binary %+v", c.Hashes)
	}
	linked := map[string]bool{}
	for _, module := range bill.Components {
		linked[module.Name] = true
	}
	if !linked["std"] || !linked["github.com/goreleaser/nfpm/v2"] {
		t.Errorf("it has %d modules, without what is linked", len(bill.Components))
	}
}

// TestCheck: a release without a word on what changed is no release.
func TestCheck(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1798766645")
	t.Chdir(".")
	repo := checkout(t)
	for version, want := range map[string]string{
		"1.2.3~rc.1":                         "",
		"1.2.3~rc.1+dev.20270102030405.0f1e": "",
		"0.1.0~dev.20270102030405.0f1e":      "",
		"0.0.0~unknown":                      "",
		"1.2.3~rc.1.dirty":                   "",
		"1.2.2":                              "section ## [1.2.2] of CHANGELOG.md is empty",
		"1.2.3":                              "CHANGELOG.md has no section ## [1.2.3]",
		"1.2":                                "CHANGELOG.md has no section ## [1.2]",
	} {
		err := run(t.Context(), []string{"check", "-repo", repo, "-version", version})
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: got %v, want %q", version, err, want)
		}
	}
}

// TestGatherLeavesNothing: what has the name of a release is complete.
func TestGatherLeavesNothing(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1798766645")
	t.Chdir(".")
	dir := t.TempDir()
	out := filepath.Join(dir, "release")
	err := run(t.Context(), []string{"gather", "-repo", checkout(t), "-version", version, "-packages", dir, "-bundle", dir + "/none", "-dir", out, "-keys", t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "gathering the release in "+out) {
		t.Errorf("got %v", err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("it left %v", got)
	}
}

// TestImage reads the image back: an index of images that are whole, with the
// program, run as nobody else of the host.
func TestImage(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1798766645")
	t.Chdir(".")
	dir := t.TempDir()
	self := static(t)
	for _, a := range arches {
		write(t, filepath.Join(dir, fmt.Sprintf("fleet-server_%s_linux_%s", version, a.binary)), self)
	}
	var made [2][]byte
	for i := range made {
		out := filepath.Join(t.TempDir(), "image.tar")
		if err := run(t.Context(), []string{"image", "-repo", ".", "-version", version, "-revision", "0f1e2d", "-dir", dir, "-out", out}); err != nil {
			t.Fatal(err)
		}
		made[i] = must(os.ReadFile(out))
	}
	if !bytes.Equal(made[0], made[1]) {
		t.Error("it differs the second time")
	}
	index := unpackImage(t, made[0])
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest := must(index.IndexManifest())
	var platforms []string
	for _, m := range manifest.Manifests {
		platforms = append(platforms, m.Platform.String())
		checkImageOf(t, must(index.Image(m.Digest)), self)
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64", "linux/arm/v7"}, platforms); diff != "" {
		t.Error(diff)
	}
}

// static is the smallest program that is linked statically: a header and nothing
// to run.
func static(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	if err := binary.Write(&b, binary.LittleEndian, header); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unpackImage returns the index that an archive is of, by its name.
func unpackImage(t *testing.T, archive []byte) v1.ImageIndex {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "image.tar"), archive)
	command(t, dir, "tar", "-xf", "image.tar")
	all := must(must(layout.FromPath(dir)).ImageIndex())
	manifests := must(all.IndexManifest()).Manifests
	if len(manifests) != 1 {
		t.Fatalf("the archive has %d images, want one index", len(manifests))
	}
	want := map[string]string{"org.opencontainers.image.ref.name": "localhost/fleet-server:1.2.3-rc.1", "io.containerd.image.name": "localhost/fleet-server:1.2.3-rc.1"}
	if diff := cmp.Diff(want, manifests[0].Annotations); diff != "" {
		t.Error(diff)
	}
	return must(all.ImageIndex(manifests[0].Digest))
}

func checkImageOf(t *testing.T, image v1.Image, program []byte) {
	t.Helper()
	config := must(image.ConfigFile())
	want := v1.Config{
		User: "65532:65532", WorkingDir: "/", Entrypoint: []string{"/usr/bin/fleet-server"}, Cmd: []string{"run"},
		Env:          []string{"PATH=/usr/bin", "HOME=/tmp"},
		ExposedPorts: map[string]struct{}{"4222/tcp": {}, "6443/tcp": {}, "8443/tcp": {}},
		Volumes:      map[string]struct{}{"/var/lib/fleet-server": {}},
		Labels: map[string]string{
			"org.opencontainers.image.title": "fleet-server", "org.opencontainers.image.version": version, "org.opencontainers.image.revision": "0f1e2d",
			"org.opencontainers.image.created": "2027-01-01T01:24:05Z", "org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.vendor": "NationTech", "org.opencontainers.image.url": "https://fleet.nationtech.io",
			"org.opencontainers.image.description": "control plane for containers on a fleet of small machines",
		},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Error(diff)
	}
	files := map[string]string{}
	for _, layer := range must(image.Layers()) {
		readLayer(t, must(layer.Compressed()), files, program)
	}
	for name, content := range map[string]string{
		"etc/passwd":           "root:x:0:0:root:/:/sbin/nologin\nfleet-server:x:65532:65532::/var/lib/fleet-server:/sbin/nologin\n",
		"etc/group":            "root:x:0:\nfleet-server:x:65532:\n",
		"usr/bin/fleet-server": "-rwxr-xr-x 0", "tmp/": "dtrwxrwxrwx 0", "var/lib/fleet-server/": "drwx------ 65532", "usr/": "drwxr-xr-x 0", "usr/bin/": "drwxr-xr-x 0",
	} {
		if files[name] != content {
			t.Errorf("%s is %q, want %q", name, files[name], content)
		}
	}
	if n := strings.Count(files["etc/ssl/certs/ca-certificates.crt"], "BEGIN CERTIFICATE"); n < 100 {
		t.Errorf("it has %d authorities", n)
	}
}

// readLayer notes small files with their content, others with mode and owner.
func readLayer(t *testing.T, compressed io.ReadCloser, files map[string]string, program []byte) {
	t.Helper()
	defer compressed.Close()
	r := tar.NewReader(must(gzip.NewReader(compressed)))
	before := ""
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Name <= before || h.ModTime.Unix() != 1798766645 {
			t.Errorf("%s comes after %s, of %v", h.Name, before, h.ModTime)
		}
		before = h.Name
		content := must(io.ReadAll(r))
		files[h.Name] = fmt.Sprintf("%v %d", h.FileInfo().Mode(), h.Uid)
		switch {
		case h.Name == "usr/bin/fleet-server" && !bytes.Equal(content, program):
			t.Error("the program is another")
		case strings.HasPrefix(h.Name, "etc/") && h.Typeflag == tar.TypeReg:
			files[h.Name] = string(content)
		}
	}
}

// TestImageRefuses: what would not start in an empty container.
func TestImageRefuses(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1798766645")
	t.Chdir(".")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "fleet-server_"+version+"_linux_amd64"), must(os.ReadFile("/bin/sh")))
	err := run(t.Context(), []string{"image", "-repo", ".", "-version", version, "-arches", "amd64", "-dir", dir, "-out", dir + "/image.tar"})
	if err == nil || !strings.Contains(err.Error(), "is linked dynamically") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir + "/image.tar"); err == nil {
		t.Error("it left a file")
	}
}
