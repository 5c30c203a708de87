package debsig_test

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

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sign returns a package with its signature.
func sign(key *ecdsa.PrivateKey, content string) string {
	sum := sha256.Sum256([]byte(content))
	text := base64.StdEncoding.EncodeToString(must(ecdsa.SignASN1(rand.Reader, key, sum[:])))
	return content + debsig.Header + text + strings.Repeat("\n", debsig.Size-len(text))
}

func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVerify(t *testing.T) {
	t.Parallel()
	key, other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	const content = debsig.Magic + "a package"
	signed := sign(key, content)
	if err := debsig.Verify(write(t, signed), &key.PublicKey); err != nil {
		t.Errorf("a signed package: %v", err)
	}
	for name, bad := range map[string]string{
		"nothing":              "",
		"no signature":         content,
		"another key":          sign(other, content),
		"another content":      strings.Replace(signed, "a package", "b package", 1),
		"a member after it":    signed + debsig.Header + strings.Repeat("\n", debsig.Size),
		"a byte after it":      signed + "\n",
		"a member in front":    debsig.Magic + "evil" + signed[len(debsig.Magic):],
		"a list of checksums":  sign(key, strings.Repeat("0", 64)+"  version\n"),
		"a signature no more":  signed[:len(signed)-debsig.Size] + strings.Repeat("\n", debsig.Size),
		"another member":       strings.Replace(signed, "_fleet-release", "_fleet-rElease", 1),
		"signed, cut off":      signed[:len(signed)-1],
		"a signature in front": signed + "evil" + signed[len(content):],
	} {
		if err := debsig.Verify(write(t, bad), &key.PublicKey); !errors.Is(err, debsig.ErrSignature) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

func TestReadKey(t *testing.T) {
	t.Parallel()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key.Public()))})
	if got, err := debsig.ReadKey(write(t, string(public))); err != nil || !got.Equal(key.Public()) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "x", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")}))} {
		if _, err := debsig.ReadKey(write(t, bad)); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	f.Add([]byte(debsig.Magic + debsig.Header + strings.Repeat("A", debsig.Size)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := debsig.Verify(write(t, string(data)), &key.PublicKey); !errors.Is(err, debsig.ErrSignature) {
			t.Errorf("the error is %v", err)
		}
	})
}
