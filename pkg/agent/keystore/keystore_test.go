package keystore_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/agent/keystore"
	"fleet.nationtech.io/fleet/pkg/agent/keystore/tpmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// storages are the kinds of storage; each must behave alike.
var storages = map[string]func(*testing.T) keystore.Storage{
	"file": func(*testing.T) keystore.Storage { return keystore.File{} },
	"tpm":  func(t *testing.T) keystore.Storage { return &keystore.TPM{Path: tpmtest.Start(t)} },
}

func TestConformance(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T, keystore.Storage){
		"signs":                       signs,
		"comes back":                  comesBack,
		"keys differ":                 keysDiffer,
		"refuses what is no key":      refusesDamage,
		"is a client certificate":     isClientCertificate,
		"signs for several at a time": signsConcurrently,
	}
	for kind, storage := range storages {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := storage(t)
			for name, test := range tests {
				t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
			}
		})
	}
}

func create(t *testing.T, s keystore.Storage) keystore.Key {
	t.Helper()
	key, err := s.Create()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verify(t *testing.T, key keystore.Key) {
	t.Helper()
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		t.Fatalf("the public key is %T", key.Public())
	}
	digest := sha256.Sum256([]byte("hello"))
	signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		t.Error("the signature is not one of the key")
	}
}

func signs(t *testing.T, s keystore.Storage) { verify(t, create(t, s)) }

func comesBack(t *testing.T, s keystore.Storage) {
	key := create(t, s)
	again, err := s.Load(key.Text())
	if err != nil {
		t.Fatal(err)
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || !public.Equal(again.Public()) || again.Text() != key.Text() {
		t.Error("another key came back")
	}
	verify(t, again)
}

func keysDiffer(t *testing.T, s keystore.Storage) {
	a, ok := create(t, s).Public().(*ecdsa.PublicKey)
	if !ok || a.Equal(create(t, s).Public()) {
		t.Error("two keys are one")
	}
}

func refusesDamage(t *testing.T, s keystore.Storage) {
	good := create(t, s).Text()
	for _, text := range []string{"", "key", good[:len(good)/2], good + good, strings.Replace(good, "PRIVATE KEY", "PUBLIC KEY", 2)} {
		if _, err := s.Load(text); !errors.Is(err, keystore.ErrText) {
			t.Errorf("%.40q: got %v", text, err)
		}
	}
}

func signsConcurrently(t *testing.T, s keystore.Storage) {
	key := create(t, s)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			digest := sha256.Sum256([]byte("hello"))
			if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// isClientCertificate shakes hands with a server that asks for a certificate,
// and makes the request for one.
func isClientCertificate(t *testing.T, s keystore.Storage) {
	key := create(t, s)
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(far, &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
			SessionTicketsDisabled: true,
		}).Handshake()
	}()
	client := tls.Client(near, &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "localhost", RootCAs: pool, Certificates: []tls.Certificate{cert}})
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Error(err)
	}
}

func TestAnyLoadsEveryKind(t *testing.T) {
	t.Parallel()
	tpm := &keystore.TPM{Path: tpmtest.Start(t)}
	s := keystore.Any{New: tpm, TPM: tpm}
	for _, made := range []keystore.Key{create(t, keystore.File{}), create(t, s)} {
		key, err := s.Load(made.Text())
		if err != nil {
			t.Fatal(err)
		}
		verify(t, key)
	}
	if text := create(t, s).Text(); strings.Contains(text, "BEGIN PRIVATE KEY") {
		t.Error("the new key is not one of the TPM")
	}
}

func TestTPMThatIsNotThere(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), file} {
		_, err := (&keystore.TPM{Path: path}).Create()
		if !errors.Is(err, keystore.ErrNoTPM) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v", err)
		}
	}
}

// TestTPMThatWasCleared and one that was replaced are the same to a key.
func TestTPMThatWasCleared(t *testing.T) {
	t.Parallel()
	socket := tpmtest.Start(t)
	s := &keystore.TPM{Path: socket}
	key := create(t, s)
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	if _, err := (tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}).Execute(tpm); err != nil {
		t.Fatal(err)
	}
	if key, err = s.Load(key.Text()); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("hello"))
	_, err = key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if !errors.Is(err, keystore.ErrForeignTPM) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("got %v", err)
	}
	verify(t, create(t, s))
}

func TestTPMSignsNothingButSHA256(t *testing.T) {
	t.Parallel()
	key := create(t, &keystore.TPM{Path: tpmtest.Start(t)})
	if _, err := key.Sign(rand.Reader, make([]byte, 48), crypto.SHA384); err == nil {
		t.Error("SHA-384 was signed")
	}
}

func TestTPMWithAnOwnerPassword(t *testing.T) {
	t.Parallel()
	socket := tpmtest.Start(t)
	tpm, err := linuxudstpm.Open(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	change := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")},
	}
	if _, err := change.Execute(tpm); err != nil {
		t.Fatal(err)
	}
	if _, err := (&keystore.TPM{Path: socket}).Create(); err == nil || !strings.Contains(err.Error(), "has a password") {
		t.Errorf("got %v", err)
	}
}
