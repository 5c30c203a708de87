package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/debsig"
)

func TestVerifyPackages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path + "\n"
	}
	public := strings.TrimSpace(write("release.pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))))
	sign := func(content string) string {
		sum := sha256.Sum256([]byte(content))
		signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		text := base64.StdEncoding.EncodeToString(signature)
		return content + debsig.Header + text + strings.Repeat("\n", debsig.Size-len(text))
	}
	agent, old := deb(t, "fleet-agent", "1.0~rc.1+x"), sign(deb(t, "fleet-agent", "0.9"))
	good := write("fleet-agent_1.0~rc.1+x_amd64.deb", sign(agent))
	bad, other := write("fleet-agent_1.1_amd64.deb", agent), write("vim_9_amd64.deb", agent)
	for name, tt := range map[string]struct {
		names string
		want  error
	}{
		"nothing":                 {"", nil},
		"a release":               {other + good, nil},
		"not signed":              {good + other + bad, debsig.ErrSignature},
		"it is not there":         {filepath.Join(dir, "fleet-agent_2_amd64.deb"), os.ErrNotExist},
		"an old agent":            {write("fleet-agent_0.9_amd64.deb", old), nil}, // somebody asked for it
		"an old agent as a newer": {good + write("fleet-agent_1.2_amd64.deb", old), errOtherPackage},
		"another program":         {write("fleet-agent_1.3_amd64.deb", sign(deb(t, "fleet-server", "1.3"))), errOtherPackage},
		"a name without an end":   {write("fleet-agent_", sign(agent)), errOtherPackage},
		"a name in no form":       {write("fleet-agent_%zz_amd64.deb", sign(agent)), errOtherPackage},
	} {
		if err := verifyPackages(t.Context(), strings.NewReader(tt.names), public); !errors.Is(err, tt.want) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	if err := verifyPackages(t.Context(), strings.NewReader(good), filepath.Join(dir, "none")); err == nil {
		t.Error("without a key all is well")
	}
}

func TestVerifyIndex(t *testing.T) {
	t.Parallel()
	control := fields("Package: fleet-agent\nDepends: podman (>= 4.3),\n uidmap\nDescription: x\n y: z\n")
	const said = "Package: fleet-agent\nDepends: podman (>= 4.3), uidmap\nFilename: pool/x.deb\n"
	for name, tt := range map[string]struct {
		index string
		want  error
	}{
		"no index":     {"", nil},
		"the same":     {said + "Size: 1\n", nil},
		"installed":    {"Package: fleet-agent\nStatus: install ok installed\nDepends: podman\n\n" + said, nil},
		"removes":      {said + "Conflicts: openssh-server\n", errOtherPackage},
		"installs":     {strings.Replace(said, "uidmap", "uidmap, telnetd", 1), errOtherPackage},
		"leaves out":   {strings.Replace(said, ", uidmap", "", 1), errOtherPackage},
		"one of two":   {said + "\n" + said + "Breaks: sudo\n", errOtherPackage},
		"other case":   {said + "cONFLICTS: sudo\n", errOtherPackage},
		"unknown":      {said + "Important: yes\n", errOtherPackage},
		"twice":        {said + "Depends: telnetd\n", errOtherPackage},
		"a mirror's":   {said + "Section: net\nSHA512: 00\nDescription: other\n words\n", nil},
		"in two lines": {said + "Replaces:\n sudo\n", errOtherPackage},
	} {
		if err := verifyIndex(control, tt.index); !errors.Is(err, tt.want) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

// deb returns an empty package.
func deb(t *testing.T, name, version string) string {
	t.Helper()
	dir := t.TempDir()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody\nDescription: empty\n", name, version)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "DEBIAN"), 0o755), os.WriteFile(filepath.Join(dir, "DEBIAN", "control"), []byte(control), 0o600)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "deb")
	if out, err := exec.Command("dpkg-deb", "-Zgzip", "--build", dir, file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
