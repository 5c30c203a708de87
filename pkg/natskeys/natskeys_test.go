package natskeys_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"fleet.nationtech.io/fleet/pkg/natskeys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	made, err := natskeys.Create(dir)
	if err != nil || len(made) != 5 {
		t.Fatalf("%v, %v", made, err)
	}
	s, err := natskeys.ReadPublic(dir)
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := natskeys.ReadPairs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for public, pair := range map[string]nkeys.KeyPair{s.Issuer: pairs.Issuer, s.XKey: pairs.XKey, s.Devices: pairs.Devices, s.Core: pairs.Core, s.System: pairs.System} {
		if got, err := pair.PublicKey(); err != nil || got != public {
			t.Errorf("the pair of %s is that of %s, %v", public, got, err)
		}
	}
	for _, name := range made {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if made, err := natskeys.Create(dir); err != nil || len(made) != 0 {
		t.Errorf("it makes %v again, %v", made, err)
	}
	// Public keys do as well, and xkey.nk need not be there.
	put := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("issuer.nk", s.Issuer+"\r\nanother line\n")
	if err := os.Remove(filepath.Join(dir, "xkey.nk")); err != nil {
		t.Fatal(err)
	}
	if k, err := natskeys.ReadPublic(dir); err != nil || k.Issuer != s.Issuer || k.XKey != "" {
		t.Errorf("%+v, %v", k, err)
	}
	if _, err := natskeys.ReadPairs(dir); err == nil || !strings.Contains(err.Error(), "issuer.nk") {
		t.Errorf("a public key is taken for a seed: %v", err)
	}
	seed, err := pairs.Core.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"issuer.nk": string(seed), "dev.nk": "x", "sys.nk": s.System[:55] + "A", "core.nk": s.Devices, "xkey.nk": s.Issuer,
	} {
		before, _ := os.ReadFile(filepath.Join(dir, name))
		put(name, content)
		if _, err := natskeys.ReadPublic(dir); err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), content) {
			t.Errorf("%s: %v", name, err)
		}
		if before == nil {
			_ = os.Remove(filepath.Join(dir, name))
			continue
		}
		put(name, string(before))
	}
	if err := os.Remove(filepath.Join(dir, "sys.nk")); err != nil {
		t.Fatal(err)
	}
	if _, err := natskeys.ReadPublic(dir); err == nil || !strings.Contains(err.Error(), "--create") {
		t.Errorf("%v", err)
	}
}
