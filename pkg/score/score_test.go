package score_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/score"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, data, want string }{
		{"object", `{ "b" : 1 , "a" : [ true , null ] }`, `{"data":{"a":[true,null],"b":1},"type":"T"}`},
		{"nested order", `{"z":{"y":1,"x":2}}`, `{"data":{"z":{"x":2,"y":1}},"type":"T"}`},
		{"lists keep their order", `[3,1,2]`, `{"data":[3,1,2],"type":"T"}`},
		{"escapes", `"\u0061\/<>&"`, `{"data":"a/<>&","type":"T"}`},
		{"null", `null`, `{"data":null,"type":"T"}`},
		{"exponent", `1e3`, `{"data":1e3,"type":"T"}`},
		{"fraction", `1.0`, `{"data":1.0,"type":"T"}`},
		{"beyond 64 bits", `12345678901234567890`, `{"data":12345678901234567890,"type":"T"}`},
		{"many digits", `0.1000000000000000055511151231257827`, `{"data":0.1000000000000000055511151231257827,"type":"T"}`},
		{"negative zero", `-0`, `{"data":-0,"type":"T"}`},
		{"names that differ in case", `{"a":1,"A":2}`, `{"data":{"A":2,"a":1},"type":"T"}`},
		{"empty name", `{"":1}`, `{"data":{"":1},"type":"T"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := score.Canonical("T", []byte(tt.data))
			if err != nil || string(got) != tt.want {
				t.Errorf("Canonical = %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

// anyJSON draws documents of every kind of value.
func anyJSON() *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Just[any](nil),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.SampledFrom([]string{"0", "-1", "1e3", "1.0", "12345678901234567890", "1E-2"}), func(s string) any { return json.Number(s) }),
	)
	value := leaf
	for range 3 {
		inner := value
		value = rapid.OneOf(leaf,
			rapid.Map(rapid.SliceOfN(inner, 0, 4), func(l []any) any { return l }),
			rapid.Map(rapid.MapOfN(rapid.String(), inner, 0, 4), func(m map[string]any) any { return m }))
	}
	return value
}

// write writes a document with its names in a random order and white space
// between any two tokens.
func write(b *bytes.Buffer, r *rand.Rand, v any) {
	space := func() { b.WriteString([]string{"", " ", "\n\t", "\r\n"}[r.IntN(4)]) }
	space()
	switch v := v.(type) {
	case map[string]any:
		b.WriteByte('{')
		names := slices.Sorted(maps.Keys(v))
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for i, name := range names {
			if i > 0 {
				b.WriteByte(',')
			}
			write(b, r, name)
			b.WriteByte(':')
			write(b, r, v[name])
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			write(b, r, item)
		}
		b.WriteByte(']')
	default:
		leaf, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		b.Write(leaf)
	}
	space()
}

func TestCanonicalIgnoresOrderAndWhiteSpace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := anyJSON().Draw(t, "value")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var a, b bytes.Buffer
		write(&a, r, value)
		write(&b, r, value)
		first, err := score.Canonical("T", a.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		second, err := score.Canonical("T", b.Bytes())
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s and %s, %v", first, second, err)
		}
	})
}

// The canonical form of what a canonical form holds is itself: server and
// agent agree on the hash.
func TestCanonicalIsIdempotentAndKeepsTheValue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := anyJSON().Draw(t, "value")
		var written bytes.Buffer
		write(&written, rand.New(rand.NewPCG(1, 1)), value)
		body, err := score.Canonical("T", written.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := wire.Decode[wire.Score](body, wire.MaxScoreSize)
		if err != nil || decoded.Type != "T" {
			t.Fatalf("the body is no wire.Score: %v", err)
		}
		again, err := score.Canonical("T", decoded.Data)
		if err != nil || !bytes.Equal(body, again) {
			t.Fatalf("%s becomes %s, %v", body, again, err)
		}
		dec := json.NewDecoder(bytes.NewReader(decoded.Data))
		dec.UseNumber()
		var kept any
		if err := dec.Decode(&kept); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(value, kept); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestCanonicalErrors(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, data, want string }{
		{"nothing", ``, "data: not one JSON document"},
		{"two documents", `{}{}`, "data: not one JSON document"},
		{"closing bracket too many", `{}}`, "data: not one JSON document"},
		{"closing list bracket too many", `{}]`, "data: not one JSON document"},
		{"name twice", `{"a":{"b":[0,{"c":1,"c":1}]}}`, "data.a.b[1].c: appears twice"},
		{"too deep", strings.Repeat("[", 66) + strings.Repeat("]", 66), "data: nested deeper than 64 levels"},
		{"too large", `"` + strings.Repeat("a", score.MaxSize) + `"`, "data: 262166 bytes, at most 262144 are allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			body, err := score.Canonical("T", []byte(tt.data))
			if !errors.Is(err, score.ErrInvalid) || err.Error() != tt.want || body != nil {
				t.Errorf("Canonical = %.40s, %v; want %s", body, err, tt.want)
			}
		})
	}
}

func TestCanonicalTakesTheLargestScore(t *testing.T) {
	t.Parallel()
	frame := len(`{"data":"","type":"T"}`)
	body, err := score.Canonical("T", []byte(` "`+strings.Repeat("a", score.MaxSize-frame)+`" `))
	if err != nil || len(body) != score.MaxSize {
		t.Errorf("Canonical = %d bytes, %v; want %d", len(body), err, score.MaxSize)
	}
	deepest := strings.Repeat("[", 64) + "1" + strings.Repeat("]", 64)
	if _, err := score.Canonical("T", []byte(deepest)); err != nil {
		t.Error(err)
	}
}

// The two packages do not import each other, but mean the same limit.
func TestLargestScoreFitsTheWire(t *testing.T) {
	t.Parallel()
	if score.MaxSize != wire.MaxScoreSize {
		t.Errorf("score.MaxSize is %d, wire.MaxScoreSize is %d", score.MaxSize, wire.MaxScoreSize)
	}
	if !wire.ValidScoreType(score.TypePodmanV0) {
		t.Errorf("%s is no score type", score.TypePodmanV0)
	}
}

// Hashes name bodies in the stores of servers and devices.
func TestHashGolden(t *testing.T) {
	t.Parallel()
	body, err := score.Canonical(score.TypePodmanV0, []byte(document(`"args":["<&>","é"]`)))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{string(body), score.Hash(body), score.Hash(nil)}
	want := []string{
		`{"data":{"services":[{"args":["<&>","é"],"image":"docker.io/library/nginx:1.29","name":"web"}]},"type":"PodmanV0"}`,
		"031959c132ceefcdc66d669ac88034e9a8cbc5260a551dc4fffa4fceda250327",
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !wire.ValidHash(got[1]) || got[1] != wire.Sum(body).String() {
		t.Errorf("%s is not the hash that a manifest carries", got[1])
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, typ, data string
		want            error
	}{
		{"good", score.TypePodmanV0, document(), nil},
		{"bad data", score.TypePodmanV0, `{}`, score.ErrInvalid},
		{"unknown type", "HelmV1", `{}`, score.ErrUnknownType},
		{"no type", "", `{}`, score.ErrUnknownType},
		{"type in lower case", "podmanv0", document(), score.ErrUnknownType},
		{"long type", strings.Repeat("\n", 1<<20), `{}`, score.ErrUnknownType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := score.Validate(tt.typ, []byte(tt.data))
			if !errors.Is(err, tt.want) {
				t.Fatalf("Validate = %v, want %v", err, tt.want)
			}
			if err != nil && (len(err.Error()) > 512 || strings.Contains(err.Error(), "\n")) {
				t.Errorf("error is not one short line: %.200v", err)
			}
		})
	}
}

func TestParsePrivilege(t *testing.T) {
	t.Parallel()
	for _, want := range []score.Privilege{score.Restricted, score.Baseline, score.Privileged} {
		if got, err := score.ParsePrivilege(want.String()); err != nil || got != want {
			t.Errorf("ParsePrivilege(%q) = %v, %v", want, got, err)
		}
	}
	if got, err := score.ParsePrivilege(""); err != nil || got != score.Baseline {
		t.Errorf("ParsePrivilege of nothing = %v, %v; want baseline", got, err)
	}
	// An unknown label must not widen what a namespace may do.
	for _, bad := range []string{"Privileged", "root", " baseline", strings.Repeat("x\n", 1000)} {
		got, err := score.ParsePrivilege(bad)
		if err == nil || got != score.Restricted || len(err.Error()) > 200 || strings.Contains(err.Error(), "\n") {
			t.Errorf("ParsePrivilege(%.20q) = %v, %v; want restricted and a short error", bad, got, err)
		}
	}
	if score.Restricted >= score.Baseline || score.Baseline >= score.Privileged {
		t.Error("the levels do not rise")
	}
}
