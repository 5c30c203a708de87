package wire_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

func anyToken() *rapid.Generator[wire.Token] {
	return rapid.Custom(func(t *rapid.T) wire.Token {
		token := wire.Token{CAHash: digest().Draw(t, "caHash"), ID: validName().Draw(t, "id")}
		copy(token.Secret[:], rapid.SliceOfN(rapid.Byte(), len(token.Secret), len(token.Secret)).Draw(t, "secret"))
		return token
	})
}

func TestTokenParseInvertsEncode(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := anyToken().Draw(t, "token")
		pasted := rapid.SampledFrom([]string{"%s", "%s\n", "  %s\r\n", "\t%s "}).Draw(t, "paste")
		got, err := wire.ParseToken(fmt.Sprintf(pasted, want.Encode()))
		if err != nil || got != want {
			t.Fatalf("ParseToken(Encode) = %v, %v; want %v", got, err, want)
		}
	})
}

func TestTokenForm(t *testing.T) {
	t.Parallel()
	token := wire.Token{CAHash: wire.Sum(nil), ID: "spring"}
	want := "FLT1.e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.spring." + strings.Repeat("a", 32)
	if got := token.Encode(); got != want {
		t.Errorf("Encode() = %q, want %q", got, want)
	}
	for _, text := range []string{want + "\n", want + "\r\n", " \t" + want, "\ufeff" + want + "\r\n"} {
		if got, err := wire.ParseToken(text); err != nil || got != token {
			t.Errorf("ParseToken(%q) = %v: %v", text, got, err)
		}
	}
}

// A token with any one byte changed names another secret or is refused; it is
// never taken for the same token.
func TestTokenHasOneTextForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		token := anyToken().Draw(t, "token")
		text := []byte(token.Encode())
		i := rapid.IntRange(0, len(text)-1).Draw(t, "position")
		text[i] = rapid.Byte().Filter(func(b byte) bool { return b != text[i] }).Draw(t, "byte")
		if got, err := wire.ParseToken(string(text)); err == nil && got == token {
			t.Fatalf("%q is read as %q", text, token.Encode())
		}
	})
}

func TestParseTokenErrors(t *testing.T) {
	t.Parallel()
	hash, secret := strings.Repeat("ab", 32), "abcdefghijklmnopqrstuvwxyz234567"
	join := func(parts ...string) string { return strings.Join(parts, ".") }
	tests := []struct{ name, token, want string }{
		{"empty", "", "must have the form"},
		{"cut off", join("FLT1", hash, "spring"), "copy all of it"},
		{"one part too many", join("FLT1", hash, "spring", secret, "x"), "must have the form"},
		{"other version", join("FLT2", hash, "spring", secret), "must have the form"},
		{"hash in upper case", join("FLT1", strings.ToUpper(hash), "spring", secret), "second part"},
		{"hash too short", join("FLT1", hash[2:], "spring", secret), "second part"},
		{"hash not hex", join("FLT1", "zz"+hash[2:], "spring", secret), "second part"},
		{"no id", join("FLT1", hash, "", secret), "third part"},
		{"bad id", join("FLT1", hash, "Spring", secret), "third part"},
		{"no secret", join("FLT1", hash, "spring", ""), "last part"},
		{"secret too short", join("FLT1", hash, "spring", secret[1:]), "last part"},
		{"secret too long", join("FLT1", hash, "spring", secret+secret[:8]), "last part"},
		{"secret in upper case", join("FLT1", hash, "spring", strings.ToUpper(secret)), "last part"},
		{"secret not base32", join("FLT1", hash, "spring", "1"+secret[1:]), "last part"},
		{"line break in the secret", join("FLT1", hash, "spring", secret[:5]+"\n"+secret[5:]), "last part"},
		{"letters that are ASCII in upper case only", join("FLT1", hash, "spring", "ſ"+secret[1:]), "last part"},
		{"padding", join("FLT1", hash, "spring", secret+"===="), "last part"},
		{"too long", join("FLT1", hash, "spring", secret) + strings.Repeat("a", 1<<20), "too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := wire.ParseToken(tt.token)
			if !errors.Is(err, wire.ErrToken) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("ParseToken = %v, want ErrToken with %q", err, tt.want)
			}
			if got != (wire.Token{}) {
				t.Errorf("a token comes with the error: %v", got)
			}
			if strings.Contains(err.Error(), secret[8:]) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error repeats the secret, or is more than a line: %v", err)
			}
		})
	}
}

func TestTokenLeaksNoSecret(t *testing.T) {
	t.Parallel()
	token := wire.Token{CAHash: wire.Sum(nil), ID: "spring", Secret: [20]byte(bytes.Repeat([]byte{0xA5}, 20))}
	forms := []string{
		hex.EncodeToString(token.Secret[:4]), // also within the hex of the whole
		token.Encode()[len(token.Encode())-32:][:6],
		"165", "0xa5", "\xa5", // one byte in decimal, as Go code, raw
		token.SecretHash()[:8],
	}
	check := func(t *testing.T, form, out string) {
		t.Helper()
		for _, secret := range forms {
			if strings.Contains(strings.ToLower(out), secret) {
				t.Errorf("%s prints the secret: %q", form, out)
			}
		}
		if !strings.Contains(out, "spring") {
			t.Errorf("%s does not name the token: %q", form, out)
		}
	}
	type holder struct{ Token wire.Token }
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%T %v", "%10.3v"} {
		for name, value := range map[string]any{"value": token, "pointer": &token, "field": holder{token}, "slice": []wire.Token{token}} {
			args := []any{value}
			if strings.Contains(verb, "%T") {
				args = []any{value, value}
			}
			check(t, verb+" of a "+name, fmt.Sprintf(verb, args...))
		}
	}
	var logs bytes.Buffer
	slog.New(slog.NewJSONHandler(&logs, nil)).Info("issued", "token", token)
	slog.New(slog.NewTextHandler(&logs, nil)).Info("issued", "token", &token, "holder", holder{token})
	for line := range strings.Lines(logs.String()) {
		_, attributes, _ := strings.Cut(line, "issued") // the time may hold any digits
		check(t, "slog", attributes)
	}
	document, err := json.Marshal(holder{token})
	if err != nil {
		t.Fatal(err)
	}
	check(t, "json", string(document))
}

func TestTokenMatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyToken().Draw(t, "a"), anyToken().Draw(t, "b")
		if !a.Matches(a.SecretHash()) {
			t.Fatal("a token does not match its own hash")
		}
		if a.Matches(b.SecretHash()) != (a.Secret == b.Secret) {
			t.Fatal("a token matches the hash of another secret")
		}
		for _, bad := range []string{"", a.SecretHash()[1:], strings.ToUpper(a.SecretHash()) + "0", a.Encode()} {
			if a.Matches(bad) {
				t.Fatalf("matches %q", bad)
			}
		}
	})
}

// The stored hash is a plain SHA-256 of the secret's bytes: a server that is
// upgraded must still know the tokens that it issued.
func TestSecretHashForm(t *testing.T) {
	t.Parallel()
	token := wire.Token{Secret: [20]byte{1, 2, 3}}
	sum := sha256.Sum256(token.Secret[:])
	if got, want := token.SecretHash(), hex.EncodeToString(sum[:]); got != want {
		t.Errorf("SecretHash() = %s, want %s", got, want)
	}
}

func TestDeviceURIParseInvertsBuild(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		fleet, device := anyName().Draw(t, "fleet"), anyName().Draw(t, "device")
		built, buildErr := wire.DeviceURI(fleet, device)
		if buildErr != nil {
			if _, ok := errors.AsType[*wire.NameError](buildErr); !ok {
				t.Fatalf("DeviceURI = %v, want a *NameError", buildErr)
			}
			built = &url.URL{Scheme: "spiffe", Host: fleet, Path: "/device/" + device}
		}
		gotFleet, gotDevice, err := wire.ParseDeviceURI(built)
		if (buildErr == nil) != (err == nil) {
			t.Fatalf("build: %v, parse(%v): %v", buildErr, built, err)
		}
		if err == nil && (gotFleet != fleet || gotDevice != device) {
			t.Fatalf("ParseDeviceURI(%v) = %q, %q", built, gotFleet, gotDevice)
		}
	})
}

// A certificate carries the text form, which url.Parse reads again.
func TestDeviceURISurvivesItsTextForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		built, err := wire.DeviceURI(validName().Draw(t, "fleet"), validName().Draw(t, "device"))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := url.Parse(built.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(built, parsed); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestParseDeviceURIErrors(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "spiffe:", "spiffe://fleet", "spiffe://fleet/", "spiffe://fleet/device", "spiffe://fleet/device/",
		"spiffe:///device/edge", "spiffe:/device/edge", "spiffe:fleet/device/edge", "//fleet/device/edge",
		"https://fleet/device/edge", "SPIFFE2://fleet/device/edge",
		"spiffe://fleet/Device/edge", "spiffe://fleet/device/Edge", "spiffe://FLEET/device/edge",
		"spiffe://fleet/device/edge/", "spiffe://fleet/device/edge/x", "spiffe://fleet//device/edge",
		"spiffe://fleet/device/../device/edge", "spiffe://fleet/device/%65dge", "spiffe://fleet/device/edge%2f",
		"spiffe://fleet:1/device/edge", "spiffe://user@fleet/device/edge", "spiffe://a.b/device/edge",
		"spiffe://fleet/device/edge?x=y", "spiffe://fleet/device/edge?", "spiffe://fleet/device/edge#x",
		"spiffe://fleet/device/*", "spiffe://fleet/device/a.b", "spiffe://fleet/operator/edge",
	} {
		u, err := url.Parse(text)
		if err != nil {
			continue // such a URI never comes out of a certificate
		}
		if fleet, device, err := wire.ParseDeviceURI(u); !errors.Is(err, wire.ErrIdentity) || fleet+device != "" {
			t.Errorf("ParseDeviceURI(%q) = %q, %q, %v; want ErrIdentity", text, fleet, device, err)
		}
	}
}

func TestTokensDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 50 {
		token := wire.NewToken(wire.Digest{7})
		parsed, err := wire.ParseToken(token.Encode())
		if err != nil || parsed != token {
			t.Fatalf("token does not survive its text form: %v", err)
		}
		seen[token.ID], seen[token.SecretHash()] = true, true
	}
	if len(seen) != 100 {
		t.Errorf("%d different ids and secrets of 100", len(seen))
	}
}
