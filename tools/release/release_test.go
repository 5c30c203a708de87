package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/google/go-cmp/cmp"
)

const version = "1.2.3~rc.1"

// program stands in for the programs of the release: it writes a manual and
// completions, and nothing in it depends on the machine.
const program = `#!/bin/sh
case $1 in
gen-man) mkdir -p "$2" && echo ".TH ${0##*/}" >"$2/${0##*/}.8" ;;
completion) echo "# completion of ${0##*/} for $2" ;;
gen-repodata) for part in repomd.xml primary.xml.gz filelists.xml.gz; do echo "$part at $3 of ${5##*/} of $# words" >"$4/$part"; done ;;
esac
`

// makeRelease makes a release in a directory of its own.
func makeRelease(t *testing.T, repo, keys string) string {
	t.Helper()
	bin, dist := t.TempDir(), t.TempDir()
	// It has what the packages read of a binary: the modules that are in it.
	self, err := os.ReadFile(must(os.Executable()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range programs {
		write(t, filepath.Join(bin, p), []byte(program))
		write(t, filepath.Join(dist, fmt.Sprintf("%s_%s_linux_arm", p, version)), self)
	}
	args := []string{"-version", version, "-arches", "armhf", "-repo", repo, "-bin", bin, "-dir", dist, "-keys", keys}
	if err := run(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	return dist
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestRelease makes one twice: all files are there, the same each time, and
// their checksums and signature are what openssl and sha256sum expect.
func TestRelease(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1798766645")
	t.Chdir(".") // run changes it
	keys := filepath.Join(t.TempDir(), "keys")
	repo := must(filepath.Abs("../.."))
	first := makeRelease(t, repo, keys)
	second := makeRelease(t, repo, keys)
	if diff := cmp.Diff(sums(t, first), sums(t, second)); diff != "" {
		t.Errorf("the second time: %s", diff)
	}
	want := []string{
		"checksums.txt", "checksums.txt.sig",
		"fleet-agent-1.2.3~rc.1-1.armv7hl.rpm", "fleet-agent_1.2.3~rc.1_armhf.deb", "fleet-agent_1.2.3~rc.1_linux_arm",
		"fleet-server-1.2.3~rc.1-1.armv7hl.rpm", "fleet-server_1.2.3~rc.1_armhf.deb", "fleet-server_1.2.3~rc.1_linux_arm",
		"install.sh", "packages.asc", "release.pub", "release.txt",
		"repodata-armv7hl-filelists.xml.gz", "repodata-armv7hl-primary.xml.gz", "repodata-armv7hl-repomd.xml", "repodata-armv7hl-repomd.xml.asc", "version",
	}
	if diff := cmp.Diff(want, names(t, first)); diff != "" {
		t.Error(diff)
	}
	command(t, first, "openssl", "dgst", "-sha256", "-verify", "release.pub", "-signature", "checksums.txt.sig", "checksums.txt")
	command(t, first, "sha256sum", "--strict", "--quiet", "-c", "checksums.txt")
	checkKeys(t, keys)
	checkPackages(t, first)
	checkRepodata(t, first)
}

// checkRepodata: the index is of the agent's package alone, and the key of
// packages signed it.
func checkRepodata(t *testing.T, dist string) {
	t.Helper()
	index := must(os.ReadFile(filepath.Join(dist, "repodata-armv7hl-repomd.xml")))
	if want := "repomd.xml at 1798766645 of fleet-agent-1.2.3~rc.1-1.armv7hl.rpm of 5 words\n"; string(index) != want {
		t.Errorf("the index is %q, want %q", index, want)
	}
	ring := must(openpgp.ReadArmoredKeyRing(bytes.NewReader(must(os.ReadFile(filepath.Join(dist, "packages.asc"))))))
	signature := must(os.ReadFile(filepath.Join(dist, "repodata-armv7hl-repomd.xml.asc")))
	at := &packet.Config{Time: func() time.Time { return time.Unix(1798766645, 0) }}
	if _, err := openpgp.CheckArmoredDetachedSignature(ring, bytes.NewReader(index), bytes.NewReader(signature), at); err != nil {
		t.Error(err)
	}
}

// TestKeysAreMadeOnce: runs at the same time sign with the same keys.
func TestKeysAreMadeOnce(t *testing.T) {
	files := keyFiles{cache: filepath.Join(t.TempDir(), "keys")}
	all := make([]*keys, 4)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() { all[i] = must(files.load()) })
	}
	wg.Wait()
	for _, k := range all {
		if !k.release.Equal(all[0].release) || k.packages.PrimaryKey.KeyId != all[0].packages.PrimaryKey.KeyId {
			t.Error("a run has keys of its own")
		}
	}
	if got := names(t, files.cache); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
}

func checkKeys(t *testing.T, dir string) {
	t.Helper()
	for _, name := range names(t, dir) {
		if info := must(os.Stat(filepath.Join(dir, name))); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

// checkPackages asks the tools that read the packages: dpkg, and rpm, which
// knows the key of the release and no other.
func checkPackages(t *testing.T, dist string) {
	t.Helper()
	if got := command(t, dist, "dpkg-deb", "--field", "fleet-agent_1.2.3~rc.1_armhf.deb", "Version", "Architecture"); got != "Version: 1.2.3~rc.1\nArchitecture: armhf\n" {
		t.Errorf("dpkg says %q", got)
	}
	if got := command(t, dist, "dpkg-deb", "--info", "fleet-agent_1.2.3~rc.1_armhf.deb", "conffiles"); got != "/etc/default/fleet-agent\n" {
		t.Errorf("conffiles are %q", got)
	}
	postrm := command(t, dist, "dpkg-deb", "--info", "fleet-agent_1.2.3~rc.1_armhf.deb", "postrm")
	if strings.Contains(postrm, "@cleanup-user@") || !strings.Contains(postrm, "kept_volumes") {
		t.Errorf("postrm lacks cleanup-user:\n%s", postrm)
	}
	// The end of the package is the signature of all the rest, and the package has
	// the key.
	for _, program := range programs {
		command(t, dist, "sh", "-ec", `
			deb=$1_1.2.3~rc.1_armhf.deb
			test "$(tail -c 188 $deb | head -c 14)" = _fleet-release
			head -c -188 $deb >rest && tail -c 128 $deb | base64 -d >signature
			openssl dgst -sha256 -verify release.pub -signature signature rest && rm rest signature
			test $1 = fleet-server || dpkg-deb --fsys-tarfile $deb | tar -xO ./usr/share/fleet-agent/release.pub | cmp - release.pub`, "sh", program)
	}
	db := t.TempDir()
	command(t, dist, "rpmkeys", "--dbpath", db, "--import", "packages.asc")
	for _, name := range names(t, dist) {
		if strings.HasSuffix(name, ".rpm") {
			command(t, dist, "rpmkeys", "--dbpath", db, "--checksig", "--define", "_pkgverify_level all", name)
		}
	}
	requires := command(t, dist, "rpm", "-qp", "--nosignature", "--requires", "fleet-agent-1.2.3~rc.1-1.armv7hl.rpm")
	if !strings.Contains(requires, "(passt or slirp4netns)\n") {
		t.Errorf("it requires %q", requires)
	}
	// What networks of Deployments need, see podman's client and the doctor.
	const recommended = "aardvark-dns catatonit iptables netavark nftables"
	deb := command(t, dist, "dpkg-deb", "--field", "fleet-agent_1.2.3~rc.1_armhf.deb", "Recommends")
	if got := strings.ReplaceAll(strings.TrimSpace(deb), ",", ""); got != recommended {
		t.Errorf("the deb recommends %q", deb)
	}
	rpm := command(t, dist, "rpm", "-qp", "--nosignature", "--recommends", "fleet-agent-1.2.3~rc.1-1.armv7hl.rpm")
	if got := strings.Join(slices.Sorted(slices.Values(strings.Fields(rpm))), " "); got != recommended {
		t.Errorf("the rpm recommends %q", rpm)
	}
}

func TestBadInput(t *testing.T) {
	t.Chdir(".")
	t.Setenv("SOURCE_DATE_EPOCH", "")
	for want, args := range map[string][]string{
		"-version is missing":    nil,
		"unknown architecture":   {"-version", "1", "-arches", "mips"},
		"SOURCE_DATE_EPOCH":      {"-version", "1"},
		"a word too many":        {"-version", "1", "2"},
		"flag provided but not ": {"-x"},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", args, err, want)
		}
	}
}

func TestKeysOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	write(t, path, []byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\n"))
	if _, err := (keyFiles{release: path, cache: t.TempDir()}).load(); err == nil || !strings.Contains(err.Error(), "release's key: not a PEM file") {
		t.Errorf("no PEM key for the release: %v", err)
	}
	write(t, path, must(newReleaseKey()))
	if _, err := (keyFiles{packages: path, cache: t.TempDir()}).load(); err == nil || !strings.Contains(err.Error(), "packages' key") {
		t.Errorf("no OpenPGP key for the packages: %v", err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	for _, e := range must(os.ReadDir(dir)) {
		all = append(all, e.Name())
	}
	return all
}

func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range names(t, dir) {
		sum := sha256.Sum256(must(os.ReadFile(filepath.Join(dir, name))))
		all[name] = hex.EncodeToString(sum[:])
	}
	return all
}

func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}
