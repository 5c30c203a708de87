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
	"os"
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
	content := debsig.Magic + "the agent"
	sum := sha256.Sum256([]byte(content))
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(signature)
	good := write("fleet-agent_1.0_amd64.deb", content+debsig.Header+text+strings.Repeat("\n", debsig.Size-len(text)))
	bad, other := write("fleet-agent_1.1_amd64.deb", content), write("vim_9_amd64.deb", content)
	for name, tt := range map[string]struct {
		names string
		want  error
	}{
		"nothing":         {"", nil},
		"a release":       {other + good, nil},
		"not signed":      {good + other + bad, debsig.ErrSignature},
		"it is not there": {filepath.Join(dir, "fleet-agent_2_amd64.deb"), os.ErrNotExist},
	} {
		if err := verifyPackages(strings.NewReader(tt.names), public); !errors.Is(err, tt.want) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	if err := verifyPackages(strings.NewReader(good), filepath.Join(dir, "none")); err == nil {
		t.Error("without a key all is well")
	}
}
