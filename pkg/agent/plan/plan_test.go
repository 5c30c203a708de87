package plan_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/agent/plan"
	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ref  = wire.DeploymentRef{Namespace: "shop", Name: "web"}
	hash = wire.Sum([]byte("body")).String()
)

func version(epoch string, term, seq uint64) wire.Version {
	return wire.Version{Epoch: epoch, Term: term, Seq: seq}
}

func manifest(v wire.Version, refs ...wire.DeploymentRef) *wire.Manifest {
	m := &wire.Manifest{Version: v, Complete: true}
	for _, r := range refs {
		m.Entries = append(m.Entries, wire.Entry{DeploymentRef: r, Type: "PodmanV0", Hash: hash, Size: 1})
	}
	return m
}

func drawVersion(t *rapid.T, label string) wire.Version {
	return version(rapid.SampledFrom([]string{"e1", "e2"}).Draw(t, label+" epoch"),
		rapid.Uint64Range(1, 3).Draw(t, label+" term"), rapid.Uint64Range(1, 3).Draw(t, label+" seq"))
}

func TestNothingLeavesUnlessItIsCertain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		known := map[wire.DeploymentRef]plan.Known{}
		for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID[string]).Draw(t, "known") {
			k := plan.Known{}
			if rapid.Bool().Draw(t, "remembered") {
				k.Named, k.Left = drawVersion(t, "named"), rapid.Bool().Draw(t, "left")
			}
			known[wire.DeploymentRef{Namespace: "n", Name: name}] = k
		}
		var m *wire.Manifest
		if rapid.Bool().Draw(t, "has manifest") {
			m = manifest(drawVersion(t, "manifest"), wire.DeploymentRef{Namespace: "n", Name: "a"})
			m.Complete = rapid.Bool().Draw(t, "complete")
			m.Entries[0].Hold = rapid.Bool().Draw(t, "hold")
		}
		confirmed := rapid.SampledFrom([]string{"", "e1", "e2"}).Draw(t, "confirmed")
		for ref, verdict := range plan.Targets(m, known, confirmed) {
			if verdict != plan.Leave {
				continue
			}
			_, named := m.Find(ref)
			newer := m.SameEpoch(known[ref].Named) && m.Newer(known[ref].Named)
			if named || !m.Complete || !newer && confirmed != m.Epoch && !known[ref].Left {
				t.Fatalf("%v leaves: manifest %+v, known %+v, confirmed %q", ref, m, known[ref], confirmed)
			}
		}
	})
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	other := wire.DeploymentRef{Namespace: "shop", Name: "other"}
	held := manifest(version("e1", 1, 2), ref)
	held.Entries[0] = wire.Entry{DeploymentRef: ref, Hold: true}
	tests := map[string]struct {
		m         *wire.Manifest
		named     wire.Version
		left      bool
		confirmed string
		want      plan.Verdict
	}{
		"named":                  {manifest(version("e1", 1, 2), ref), version("e1", 1, 1), false, "", plan.Apply},
		"held by the server":     {held, version("e1", 1, 1), false, "", plan.Keep},
		"no manifest":            {nil, version("e1", 1, 1), false, "", plan.Keep},
		"omitted":                {manifest(version("e1", 1, 2), other), version("e1", 1, 1), false, "", plan.Leave},
		"omitted by all":         {manifest(version("e1", 2, 1)), version("e1", 1, 9), false, "", plan.Leave},
		"omitted by an older":    {manifest(version("e1", 1, 1)), version("e1", 1, 2), false, "", plan.Hold},
		"omitted in a new epoch": {manifest(version("e2", 1, 9)), version("e1", 1, 1), false, "", plan.Hold},
		"new epoch, confirmed":   {manifest(version("e2", 1, 9)), version("e1", 1, 1), false, "e2", plan.Leave},
		"another confirmed":      {manifest(version("e2", 1, 9)), version("e1", 1, 1), false, "e1", plan.Hold},
		"left, then a new epoch": {manifest(version("e2", 1, 9)), version("e1", 1, 1), true, "", plan.Leave},
		"left, then named":       {manifest(version("e2", 1, 2), ref), version("e1", 1, 1), true, "", plan.Apply},
		"left, no manifest":      {nil, version("e1", 1, 1), true, "", plan.Keep},
		"memory lost":            {manifest(version("e1", 1, 2)), wire.Version{}, false, "", plan.Hold},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			targets := plan.Targets(tt.m, map[wire.DeploymentRef]plan.Known{ref: {Named: tt.named, Left: tt.left}}, tt.confirmed)
			if targets[ref] != tt.want {
				t.Errorf("got %v, want %v", targets[ref], tt.want)
			}
			if got := plan.Held(targets); (len(got) == 1) != (tt.want == plan.Hold) {
				t.Errorf("held: %v", got)
			}
		})
	}
}

func TestAccept(t *testing.T) {
	t.Parallel()
	incomplete := manifest(version("e1", 9, 9))
	incomplete.Complete = false
	tests := map[string]struct {
		have wire.Version
		m    *wire.Manifest
		want bool
		err  error
	}{
		"first":         {wire.Version{}, manifest(version("e1", 1, 1)), true, nil},
		"newer":         {version("e1", 1, 1), manifest(version("e1", 1, 2)), true, nil},
		"newer term":    {version("e1", 1, 9), manifest(version("e1", 2, 1)), true, nil},
		"same":          {version("e1", 1, 1), manifest(version("e1", 1, 1)), false, nil},
		"older":         {version("e1", 2, 1), manifest(version("e1", 1, 9)), false, plan.ErrOlder},
		"another epoch": {version("e1", 9, 9), manifest(version("e2", 1, 1)), true, nil},
		"incomplete":    {version("e1", 1, 1), incomplete, false, wire.ErrManifest},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := plan.Accept(tt.have, tt.m)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %t, %v", got, err)
			}
		})
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		})).Draw(t, "text")
		limit := rapid.IntRange(3, 20).Draw(t, "limit")
		got := plan.Cut(text, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.Contains(got, "\n") {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

// What fits is not cut, and of what does not as much is kept as fits.
func TestCutKeepsWhatFits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text  string
		limit int
		want  string
	}{
		{"12345", 5, "12345"},
		{"123456", 5, "12…"},
		{"äöü", 6, "äöü"},
		{"äöüx", 6, "ä…"},
		{"€€", 5, "…"},
		{"a  b\nc", 5, "a b c"},
		{"abcd", 3, "…"},
	} {
		if got := plan.Cut(tt.text, tt.limit); got != tt.want || len(got) > tt.limit || !utf8.ValidString(got) {
			t.Errorf("%q cut to %d is %q, want %q", tt.text, tt.limit, got, tt.want)
		}
	}
}
