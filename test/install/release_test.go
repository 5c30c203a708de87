//go:build linux

package install_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// releases are directories of releases, each with a bundle of it beside it. All
// have the same programs, but for the version that is written in them.
type releases struct {
	dir string
	key *ecdsa.PrivateKey
	own string // the version of the programs in bin
}

// Releases that tests install. The third never becomes ready where brokenUnit
// is in place.
const first, second, broken = "one", "two", "broken"

// brokenUnit keeps the service from starting with the third release, under which
// a device is revoked all the same.
const brokenUnit = `[Service]
ExecStartPre=/bin/sh -c 'if %s version | grep -qF "` + "fleet-server 3" + `"; then cat /release/revoked.jsonl >>/var/lib/fleet-server/revoked-keys.jsonl; exit 1; fi'
`

// revokedKey is the fingerprint of that device.
var revokedKey = strings.Repeat("0a", sha256.Size)

var debArch = map[string]string{"amd64": "amd64", "arm64": "arm64", "arm": "armhf"}[runtime.GOARCH]

// makeReleases makes those with the names.
func makeReleases(t *testing.T, names ...string) *releases {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../../bin/fleet-server", "version").Output()
	if err != nil {
		t.Fatalf("%v: run make build first", err)
	}
	r := &releases{dir: t.TempDir(), own: strings.Fields(string(out))[1]}
	if r.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		r.make(t, name, fmt.Sprint(i+1))
	}
	r.write(t, "revoked.jsonl", fmt.Appendf(nil, `{"fingerprint":"%s","device":"press-1","reason":"revoked","time":"2026-11-21T08:00:00Z"}`+"\n", revokedKey))
	return r
}

// version is that of a release: the one of the programs, with another beginning.
func (r *releases) version(number string) string { return number + r.own[1:] }

func (r *releases) make(t *testing.T, name, number string) {
	t.Helper()
	version := r.version(number)
	write := func(name string, content []byte) { r.write(t, name, content) }
	for _, program := range []string{"fleet-server", "fleet-agent"} {
		content, err := os.ReadFile(filepath.Join("../../bin", program))
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.ReplaceAll(content, []byte(r.own), []byte(version))
		write(fmt.Sprintf("%s/%s_%s_linux_%s", name, program, version, runtime.GOARCH), content)
		r.pack(t, program, version, content, filepath.Join(r.dir, name, fmt.Sprintf("%s_%s_%s.deb", program, version, debArch)))
	}
	script, err := os.ReadFile("../../install.sh")
	if err != nil {
		t.Fatal(err)
	}
	write(name+"/install.sh", bytes.Replace(script, []byte("\nRELEASE_KEY=''\n"), fmt.Appendf(nil, "\nRELEASE_KEY='%s'\n", r.publicKey(t)), 1))
	write(name+"/version", []byte(version+"\n"))
	write(name+"/release.txt", fmt.Appendf(nil, "Version: %s\nDate: 2026-11-01T00:00:00Z\nChannels: stable\n", version))
	r.sign(t, name)
	r.run(t, "tar", "-cf", name+".tar", "-C", name, ".", "--transform=s|^\\./||")
}

// publicKey is what the releases are signed with, in PEM.
func (r *releases) publicKey(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(r.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func (r *releases) write(t *testing.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	mode := os.FileMode(0o755)
	if strings.Contains(name, "/usr/lib/") {
		mode = 0o644
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
}

func (r *releases) sign(t *testing.T, name string) {
	t.Helper()
	r.run(t, "sh", "-c", "cd "+name+" && sha256sum * >checksums.txt")
	sums, err := os.ReadFile(filepath.Join(r.dir, name, "checksums.txt"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(sums)
	signature, err := ecdsa.SignASN1(rand.Reader, r.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	r.write(t, name+"/checksums.txt.sig", signature)
}

// pack makes a deb of a program with the files and the scripts of the real one,
// and without what takes time: compression, manuals.
func (r *releases) pack(t *testing.T, program, version string, content []byte, out string) {
	t.Helper()
	stage := "stage-" + program
	write := func(name string, content []byte) { r.write(t, stage+name, content) }
	r.run(t, "rm", "-rf", stage)
	write("/DEBIAN/control", fmt.Appendf(nil, "Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: tests <nobody@example.com>\nDescription: %s\n",
		program, version, debArch, program))
	cleanup := source(t, "libexec/cleanup-user")
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		write("/DEBIAN/"+script, bytes.Replace(source(t, "deb/"+program+"."+script), []byte("@cleanup-user@\n"), cleanup, 1))
	}
	write("/usr/bin/"+program, content)
	write("/usr/lib/systemd/system/"+program+".service", source(t, "systemd/"+program+".service"))
	write("/usr/lib/sysusers.d/"+program+".conf", source(t, "systemd/"+program+".sysusers"))
	if program == "fleet-agent" {
		write("/usr/lib/tmpfiles.d/fleet-agent.conf", source(t, "systemd/fleet-agent.tmpfiles"))
		write("/usr/libexec/fleet-agent/setup-user", source(t, "libexec/setup-user"))
		write("/usr/libexec/fleet-agent/cleanup-user", cleanup)
	}
	r.run(t, "dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", stage, out)
}

func source(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../../packaging", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func (r *releases) run(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = r.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}
