package pki_test

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/pki"
)

// now is fixed: validity is counted from it.
var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func load(t testing.TB, dir string) *pki.PKI {
	t.Helper()
	p, err := pki.Load(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// device issues a device's certificate.
func device(t testing.TB, p *pki.PKI) []*x509.Certificate {
	t.Helper()
	return deviceAt(t, p, now)
}

func deviceAt(t testing.TB, p *pki.PKI, at time.Time) []*x509.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := p.IssueDevice("edge-1", &url.URL{Scheme: "spiffe", Host: "fleet", Path: "/device/edge-1"}, key.Public(), at)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// verify checks a leaf against one authority alone.
func verify(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, at time.Time) error {
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func TestAuthoritiesStay(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "pki")
	first, second := load(t, dir), load(t, dir)
	for name, pair := range map[string][2]*pki.Authority{
		"root": {first.Root, second.Root}, "server": {first.Server, second.Server},
		"device": {first.Device, second.Device}, "operator": {first.Operator, second.Operator},
	} {
		if !pair[0].Cert().Equal(pair[1].Cert()) {
			t.Errorf("the %s authority is another after a restart", name)
		}
		if err := pair[0].Cert().CheckSignatureFrom(first.Root.Cert()); err != nil {
			t.Errorf("the %s authority: %v", name, err)
		}
	}
	if first.RootHash() != sha256.Sum256(first.Root.Cert().RawSubjectPublicKeyInfo) || first.RootHash() == load(t, t.TempDir()).RootHash() {
		t.Error("the hash in tokens does not tell servers apart")
	}
	// What the second start issues is good for peers of the first.
	if err := verify(device(t, second), first.Device.Pool(), x509.ExtKeyUsageClientAuth, now); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v (%v)", e.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v (%v)", info.Mode(), err)
	}
}

// A certificate of one authority is worth nothing where another is trusted,
// and the authorities cannot make more of their kind.
func TestAuthoritiesAreApart(t *testing.T) {
	t.Parallel()
	p := load(t, t.TempDir())
	chain := device(t, p)
	for name, tc := range map[string]struct {
		roots *x509.CertPool
		good  bool
	}{
		"device": {p.Device.Pool(), true}, "root": {p.Root.Pool(), true}, "operator": {p.Operator.Pool(), false}, "server": {p.Server.Pool(), false},
		"another server's device authority": {load(t, t.TempDir()).Device.Pool(), false},
	} {
		if err := verify(chain, tc.roots, x509.ExtKeyUsageClientAuth, now); (err == nil) != tc.good {
			t.Errorf("a device's certificate where %s is trusted: %v", name, err)
		}
	}
	if err := verify(chain, p.Device.Pool(), x509.ExtKeyUsageServerAuth, now); err == nil {
		t.Error("a device's certificate serves")
	}
	for _, a := range []*pki.Authority{p.Server, p.Device, p.Operator} {
		if c := a.Cert(); !c.IsCA || !c.MaxPathLenZero || c.MaxPathLen != 0 {
			t.Errorf("%s may make further authorities", c.Subject)
		}
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	below, err := p.Device.Issue(&x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign}, key.Public(), now, day)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, chain[0], below[0], chain[0].PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for _, roots := range []*x509.CertPool{p.Device.Pool(), p.Root.Pool()} {
		if err := verify(append([]*x509.Certificate{leaf}, below...), roots, x509.ExtKeyUsageClientAuth, now); err == nil {
			t.Error("what an authority below an authority issued is trusted")
		}
	}
}

func TestCertificatesAreValidForAWhile(t *testing.T) {
	t.Parallel()
	p := load(t, t.TempDir())
	chain := device(t, p)
	for after, good := range map[time.Duration]bool{
		-2 * day: false, -23 * time.Hour: true, 0: true, 364 * day: true, 366 * day: false,
	} {
		if err := verify(chain, p.Device.Pool(), x509.ExtKeyUsageClientAuth, now.Add(after)); (err == nil) != good {
			t.Errorf("after %s: %v", after, err)
		}
	}
	serials := map[string]bool{}
	for range 20 {
		serials[device(t, p)[0].SerialNumber.String()] = true
	}
	if len(serials) != 20 {
		t.Errorf("%d serial numbers for 20 certificates", len(serials))
	}
	leaf := chain[0]
	if leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://fleet/device/edge-1" || leaf.Subject.CommonName != "edge-1" {
		t.Errorf("the certificate is %+v", leaf)
	}
}

func TestDamagedAuthorities(t *testing.T) {
	t.Parallel()
	remove := func(name string) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, content string) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		damage func(testing.TB, string)
		is     error
		says   string
	}{
		"no key":         {remove("device.key"), pki.ErrIncomplete, "backup"},
		"no root key":    {remove("root.key"), pki.ErrIncomplete, "backup"},
		"empty":          {write("server.crt", ""), nil, "server.crt"},
		"no certificate": {write("operator.crt", "-----BEGIN X-----\n-----END X-----\n"), nil, "operator.crt"},
		"an empty key":   {write("root.key", ""), nil, "root.key"},
		"lost":           {remove("device.crt"), pki.ErrIncomplete, "backup"},
		"an empty index": {write("authorities.json", "{}"), nil, "backup"},
		"no root": {func(t testing.TB, dir string) {
			remove("authorities.json")(t, dir)
			remove("root.crt")(t, dir)
		}, pki.ErrIncomplete, "backup"},
		"no index": {func(t testing.TB, dir string) {
			if err := load(t, dir).Rotate(false, now); err != nil {
				t.Fatal(err)
			}
			remove("authorities.json")(t, dir)
		}, pki.ErrIncomplete, "authorities.json"},
		"the key of other": {func(t testing.TB, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, "server.key"))
			if err != nil {
				t.Fatal(err)
			}
			write("device.key", string(data))(t, dir)
		}, pki.ErrIncomplete, "does not belong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			load(t, dir)
			tc.damage(t, dir)
			_, err := pki.Load(dir, now)
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error is %v, want one that says %q", err, tc.says)
			}
		})
	}
}

// A first start that a power cut ended between the two files of an authority.
func TestHalfAFirstStartIsFinished(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	load(t, dir)
	for _, name := range []string{"authorities.json", "device.crt", "operator.crt", "operator.key"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := load(t, dir)
	if err := verify(device(t, p), load(t, dir).Device.Pool(), x509.ExtKeyUsageClientAuth, now); err != nil {
		t.Error(err)
	}
}

func TestOperatorCertificate(t *testing.T) {
	t.Parallel()
	p := load(t, t.TempDir())
	certPEM, keyPEM, err := p.IssueOperator("admin", []string{"system:masters"}, now, 500*day)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if pair.Leaf.Subject.CommonName != "admin" || !slices.Equal(pair.Leaf.Subject.Organization, []string{"system:masters"}) {
		t.Errorf("subject is %s", pair.Leaf.Subject)
	}
	if got := pair.Leaf.NotAfter.Sub(now); got != 365*day {
		t.Errorf("it is valid for %s, want no more than a year", got)
	}
	for name, pool := range map[string]*x509.CertPool{"operator": p.Operator.Pool(), "device": p.Device.Pool(), "server": p.Server.Pool()} {
		if err := verify([]*x509.Certificate{pair.Leaf}, pool, x509.ExtKeyUsageClientAuth, now); (err == nil) != (name == "operator") {
			t.Errorf("where %s is trusted: %v", name, err)
		}
	}
}

func TestKeysAndCertificatesInPEM(t *testing.T) {
	t.Parallel()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	data, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := pki.DecodeKey(data); err != nil || !again.Equal(key) {
		t.Errorf("the key came back as another (%v)", err)
	}
	chain := device(t, load(t, t.TempDir()))
	if leaf, err := pki.DecodeCert(pki.EncodeChain(chain)); err != nil || !leaf.Equal(chain[0]) {
		t.Errorf("the first certificate came back as another (%v)", err)
	}
	if diff := cmp.Diff(64, len(pki.Fingerprint(chain[0].RawSubjectPublicKeyInfo))); diff != "" {
		t.Errorf("length of a fingerprint (-want +got):\n%s", diff)
	}
	for name, garbage := range map[string]string{
		"empty": "", "no PEM": "x", "no DER": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"an RSA key's form": "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
	} {
		if _, err := pki.DecodeKey([]byte(garbage)); err == nil {
			t.Errorf("%s is a key", name)
		}
		if _, err := pki.DecodeCert([]byte(garbage)); err == nil {
			t.Errorf("%s is a certificate", name)
		}
	}
}
