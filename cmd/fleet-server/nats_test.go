package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/pkg/natschart"
	"fleet.nationtech.io/fleet/pkg/natskeys"
)

// TestValuesAndAccountsHoldNoSecret: what is printed has the public keys, and no seed.
func TestValuesAndAccountsHoldNoSecret(t *testing.T) {
	t.Parallel()
	keys := filepath.Join(t.TempDir(), "keys")
	s := &server{t: t, dir: t.TempDir()}
	accounts, said, err := s.both("nats-accounts", "--keys", keys, "--create")
	if err != nil || strings.Count(said, ": made\n") != 5 {
		t.Fatalf("%v, %q", err, said)
	}
	public, err := natskeys.ReadPublic(keys)
	if err != nil {
		t.Fatal(err)
	}
	printed := map[string]string{"accounts": accounts}
	for preset, args := range map[string]string{
		"basic": "", "cluster": "--replicas 5", "supercluster": "--name east --gateway west=tls://a.example.com:7222,tls://b.example.com:7222", "leaf": "--name plant-1 --remote tls://nats.example.com:7422",
	} {
		printed[preset] = s.run(append([]string{"nats-values", "--preset", preset, "--keys", keys}, strings.Fields(args)...)...)
		if !strings.HasPrefix(printed[preset], "# Values for chart nats/nats, version "+natschart.Version+": preset "+preset+".\n") {
			t.Errorf("%s: %s", preset, printed[preset])
		}
	}
	for name, text := range printed {
		for _, key := range []string{public.Issuer, public.XKey, public.Devices, public.Core, public.System} {
			if !strings.Contains(text, key) {
				t.Errorf("%s: %s is missing", name, key)
			}
		}
		if seed := regexp.MustCompile(`\bS[AUX][A-Z2-7]{40,}`).FindString(text); seed != "" {
			t.Errorf("%s has a seed", name)
		}
	}
	for args, want := range map[string]string{
		"nats-values --preset huge --keys " + keys:                               "--preset \"huge\": it must be one of basic, cluster, supercluster, leaf",
		"nats-values --preset basic --keys /nosuch":                              "--keys: ",
		"nats-values --preset basic":                                             `required flag(s) "keys" not set`,
		"nats-values --preset leaf --keys " + keys:                               "--remote: preset leaf needs",
		"nats-values --preset supercluster --gateway west --keys " + keys:        "--gateway: it must have the form",
		"nats-values --preset basic --remote tls://u:hunter2@a:1 --keys " + keys: "--remote: only preset leaf",
		"nats-accounts --keys /nosuch":                                           "--create makes the keys that are missing",
	} {
		if _, err := s.try(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(keys, "dev.nk"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.try("nats-accounts", "--keys", keys, "--create"); err == nil || strings.Contains(err.Error(), "nonsense") {
		t.Errorf("a file that holds no key: %v", err)
	}
}
