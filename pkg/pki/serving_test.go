package pki_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/pki"
)

var hosts = []string{"localhost", "127.0.0.1", "::1", "gateway.example", "localhost"}

func fixed[T any](v T) func() T { return func() T { return v } }

// serving returns a serving certificate for hosts at a time.
func serving(t testing.TB, p *pki.PKI, hosts []string, at time.Time) *pki.Serving {
	t.Helper()
	s, err := p.Serving("gateway", fixed(hosts), fixed(at))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sent is what a serving certificate's peer receives.
func sent(t testing.TB, s *pki.Serving) []*x509.Certificate {
	t.Helper()
	var chain []*x509.Certificate
	for _, der := range s.Certificate().Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	return chain
}

func TestServingCertificate(t *testing.T) {
	t.Parallel()
	p := load(t, t.TempDir())
	s := serving(t, p, hosts, now)
	for _, host := range hosts {
		if err := s.Certificate().Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	for after, good := range map[time.Duration]bool{-31 * day: false, -29 * day: true, 0: true, 364 * day: true, 366 * day: false} {
		if err := verify(sent(t, s), p.Root.Pool(), x509.ExtKeyUsageServerAuth, now.Add(after)); (err == nil) != good {
			t.Errorf("after %s: %v", after, err)
		}
	}
	if err := verify(sent(t, s), p.Root.Pool(), x509.ExtKeyUsageClientAuth, now); err == nil {
		t.Error("a serving certificate is good for clients")
	}
	onDisk, err := tls.LoadX509KeyPair(s.CertFile(), s.KeyFile())
	if err != nil || !onDisk.Leaf.Equal(s.Certificate().Leaf) {
		t.Errorf("the files hold another certificate (%v)", err)
	}
}

func TestServingCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := serving(t, load(t, dir), hosts, now).Certificate()
	reversed := slices.Clone(hosts)
	slices.Reverse(reversed)
	for name, tc := range map[string]struct {
		hosts []string
		at    time.Time
		renew bool
	}{
		"the same":         {hosts, now, false},
		"in another order": {reversed, now, false},
		"two thirds later": {hosts, now.Add(243 * day), false},
		"a third is left":  {hosts, now.Add(244 * day), true},
		"expired":          {hosts, now.Add(400 * day), true},
		"before its time":  {hosts, now.Add(-31 * day), true},
		"another host":     {append(slices.Clone(hosts), "new.example"), now, true},
		"a host less":      {hosts[:2], now, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			c := serving(t, load(t, copied), tc.hosts, tc.at).Certificate()
			if renewed := !c.Leaf.Equal(first.Leaf); renewed != tc.renew {
				t.Errorf("renewed: %v, want %v", renewed, tc.renew)
			}
			if !bytes.Equal(c.Leaf.RawSubjectPublicKeyInfo, first.Leaf.RawSubjectPublicKeyInfo) {
				t.Error("the key changed")
			}
		})
	}
}

// A certificate of another authority, or a file that cannot be read, is replaced.
func TestUselessServingCertificateIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := load(t, dir)
	serving(t, load(t, t.TempDir()), hosts, now)
	for _, name := range []string{"gateway.crt", "gateway.key"} {
		serving(t, p, hosts, now)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := verify(sent(t, serving(t, p, hosts, now)), p.Root.Pool(), x509.ExtKeyUsageServerAuth, now); err != nil {
			t.Errorf("after %s was emptied: %v", name, err)
		}
	}
	other := serving(t, load(t, t.TempDir()), hosts, now)
	for from, to := range map[string]string{other.CertFile(): "gateway.crt", other.KeyFile(): "gateway.key"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := verify(sent(t, serving(t, p, hosts, now)), p.Root.Pool(), x509.ExtKeyUsageServerAuth, now); err != nil {
		t.Errorf("a certificate of another authority stayed: %v", err)
	}
}

// A running server renews by itself, with the key that clients may have pinned.
func TestServingCertificateKeepsCurrent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p, err := pki.Load(dir, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"one.example"}
		var passed time.Duration // beside what the ticks take, which would be 400,000
		s, err := p.Serving("gateway", func() []string { return names }, func() time.Time { return time.Now().Add(passed) })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- pki.KeepCurrent(ctx, slog.New(slog.DiscardHandler), s) }()
		present := func() *x509.Certificate {
			c, err := s.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			return c.Leaf
		}
		first := present()
		check := func() {
			time.Sleep(pki.CheckInterval)
			synctest.Wait()
		}
		passed = 200 * day
		check()
		if !present().Equal(first) {
			t.Error("it was renewed before two thirds of its life were over")
		}
		passed = 260 * day
		check()
		second := present()
		if second.Equal(first) || !bytes.Equal(second.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) {
			t.Error("after 260 days it is the same certificate, or has another key")
		}
		names = []string{"one.example", "two.example"}
		check()
		if err := present().VerifyHostname("two.example"); err != nil {
			t.Error(err)
		}
		if err := p.Rotate(false, time.Now()); err != nil {
			t.Fatal(err)
		}
		check()
		if err := present().CheckSignatureFrom(p.Server.Cert()); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
