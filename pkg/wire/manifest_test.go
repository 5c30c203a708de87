package wire_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// version draws versions from few values, so that equal and neighbouring ones
// are common.
func version() *rapid.Generator[wire.Version] {
	return rapid.Custom(func(t *rapid.T) wire.Version {
		return wire.Version{
			Epoch: rapid.SampledFrom([]string{"e1", "e2"}).Draw(t, "epoch"),
			Term:  rapid.Uint64Range(0, 3).Draw(t, "term"),
			Seq:   rapid.OneOf(rapid.Uint64Range(0, 3), rapid.Just(^uint64(0))).Draw(t, "seq"),
		}
	})
}

func TestNewerIsAStrictOrderWithinAnEpoch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := version().Draw(t, "a"), version().Draw(t, "b"), version().Draw(t, "c")
		switch {
		case a.Newer(a):
			t.Fatalf("%v is newer than itself", a)
		case a.Newer(b) && b.Newer(a):
			t.Fatalf("%v and %v are newer than each other", a, b)
		case a.Newer(b) && b.Newer(c) && !a.Newer(c):
			t.Fatalf("%v > %v > %v is not transitive", a, b, c)
		case a.Newer(b) && !a.SameEpoch(b):
			t.Fatalf("%v is newer than %v of another epoch", a, b)
		case a.SameEpoch(b) && a != b && !a.Newer(b) && !b.Newer(a):
			t.Fatalf("%v and %v are not ordered", a, b)
		}
	})
}

func TestNewer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		v, o wire.Version
		want bool
	}{
		{"equal", wire.Version{Epoch: "e", Term: 1, Seq: 1}, wire.Version{Epoch: "e", Term: 1, Seq: 1}, false},
		{"higher seq", wire.Version{Epoch: "e", Term: 1, Seq: 2}, wire.Version{Epoch: "e", Term: 1, Seq: 1}, true},
		{"lower seq", wire.Version{Epoch: "e", Term: 1, Seq: 1}, wire.Version{Epoch: "e", Term: 1, Seq: 2}, false},
		{"higher term, lower seq", wire.Version{Epoch: "e", Term: 2, Seq: 1}, wire.Version{Epoch: "e", Term: 1, Seq: 9}, true},
		{"lower term, higher seq", wire.Version{Epoch: "e", Term: 1, Seq: 9}, wire.Version{Epoch: "e", Term: 2, Seq: 1}, false},
		{"another epoch", wire.Version{Epoch: "f", Term: 9, Seq: 9}, wire.Version{Epoch: "e", Term: 1, Seq: 1}, false},
		{"first manifest of a device", wire.Version{Epoch: "e", Term: 1, Seq: 1}, wire.Version{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.v.Newer(tt.o); got != tt.want {
				t.Errorf("(%v).Newer(%v) = %v, want %v", tt.v, tt.o, got, tt.want)
			}
		})
	}
}

func TestVersionIsZero(t *testing.T) {
	t.Parallel()
	for v, want := range map[wire.Version]bool{{}: true, {Epoch: "e"}: false, {Term: 1}: false, {Seq: 1}: false} {
		if v.IsZero() != want {
			t.Errorf("(%v).IsZero() = %v", v, !want)
		}
	}
}

func validEntry() *rapid.Generator[wire.Entry] {
	return rapid.Custom(func(t *rapid.T) wire.Entry {
		e := wire.Entry{
			DeploymentRef:   validRef().Draw(t, "ref"),
			VolumeRetention: rapid.SampledFrom([]wire.VolumeRetention{"", wire.RetainVolumes, wire.DeleteVolumes}).Draw(t, "retention"),
			Hold:            rapid.Bool().Draw(t, "hold"),
		}
		if !e.Hold {
			e.Type = rapid.StringMatching(`[A-Za-z_][A-Za-z0-9_]{0,62}`).Draw(t, "type")
			e.Hash = digest().Draw(t, "hash").String()
			e.Size = rapid.IntRange(1, wire.MaxScoreSize).Draw(t, "size")
		}
		return e
	})
}

func validManifest() *rapid.Generator[wire.Manifest] {
	return rapid.Custom(func(t *rapid.T) wire.Manifest {
		entries := rapid.SliceOfNDistinct(validEntry(), 0, 8, func(e wire.Entry) wire.DeploymentRef { return e.DeploymentRef }).Draw(t, "entries")
		slices.SortFunc(entries, func(a, b wire.Entry) int {
			return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
		})
		return wire.Manifest{
			Version: wire.Version{
				Epoch: rapid.StringMatching(`[0-9A-Za-z-]{1,64}`).Draw(t, "epoch"),
				Term:  rapid.Uint64Min(1).Draw(t, "term"),
				Seq:   rapid.Uint64Min(1).Draw(t, "seq"),
			},
			Complete: true,
			Time:     time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "time"), 0).UTC(),
			Servers:  rapid.SliceOfN(rapid.StringMatching(`tls://[a-z]{1,9}:4222`), 1, 3).Draw(t, "servers"),
			Entries:  entries,
		}
	})
}

func TestManifestReplySurvivesTheWire(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		manifest := validManifest().Draw(t, "manifest")
		want := wire.SnapshotReply{
			Status:   wire.SnapshotManifest,
			Manifest: &manifest,
			Want:     rapid.SliceOfN(rapid.SampledFrom([]wire.Want{wire.WantInfo, wire.WantState}), 1, 2).Draw(t, "want"),
		}
		got, err := wire.DecodeManifestReply(encode(t, want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestManifestFind(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		manifest := validManifest().Draw(t, "manifest")
		for _, want := range manifest.Entries {
			if got, ok := manifest.Find(want.DeploymentRef); !ok || got != want {
				t.Fatalf("Find(%v) = %v, %v", want.DeploymentRef, got, ok)
			}
		}
		absent := validRef().Draw(t, "absent")
		listed := slices.ContainsFunc(manifest.Entries, func(e wire.Entry) bool { return e.DeploymentRef == absent })
		if _, ok := manifest.Find(absent); ok != listed {
			t.Fatalf("Find(%v) = %v", absent, ok)
		}
	})
}

// goodManifest has two entries; tests break one thing in it.
func goodManifest() *wire.Manifest {
	entry := func(name string) wire.Entry {
		ref := wire.DeploymentRef{Namespace: "default", Name: name}
		return wire.Entry{DeploymentRef: ref, Type: "PodmanV0", Hash: wire.Sum([]byte(name)).String(), Size: 1}
	}
	return &wire.Manifest{
		Version:  wire.Version{Epoch: "e1", Term: 1, Seq: 1},
		Complete: true,
		Entries:  []wire.Entry{entry("a"), entry("b")},
	}
}

func TestManifestValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(m *wire.Manifest)
		want   string // in the error; empty: valid
	}{
		{"good", func(*wire.Manifest) {}, ""},
		{"nothing should run", func(m *wire.Manifest) { m.Entries = nil }, ""},
		{"largest version", func(m *wire.Manifest) { m.Term, m.Seq = ^uint64(0), ^uint64(0) }, ""},
		{"hold", func(m *wire.Manifest) {
			m.Entries[0] = wire.Entry{DeploymentRef: m.Entries[0].DeploymentRef, Hold: true}
		}, ""},
		{"volumes go", func(m *wire.Manifest) { m.Entries[0].VolumeRetention = wire.DeleteVolumes }, ""},
		{"largest score", func(m *wire.Manifest) { m.Entries[0].Size = wire.MaxScoreSize }, ""},

		{"not complete", func(m *wire.Manifest) { m.Complete = false }, "not marked complete"},
		{"no epoch", func(m *wire.Manifest) { m.Epoch = "" }, "bad epoch"},
		{"epoch with a slash", func(m *wire.Manifest) { m.Epoch = "a/b" }, "bad epoch"},
		{"epoch with a line break", func(m *wire.Manifest) { m.Epoch = "a\n" }, "bad epoch"},
		{"long epoch", func(m *wire.Manifest) { m.Epoch = strings.Repeat("e", 65) }, "bad epoch"},
		{"no term", func(m *wire.Manifest) { m.Term = 0 }, "term and seq begin at 1"},
		{"no seq", func(m *wire.Manifest) { m.Seq = 0 }, "term and seq begin at 1"},
		{"too many", func(m *wire.Manifest) { m.Entries = make([]wire.Entry, wire.MaxEntries+1) }, "more than 512 entries"},
		{"out of order", func(m *wire.Manifest) { slices.Reverse(m.Entries) }, "entries out of order at default/a"},
		{"twice", func(m *wire.Manifest) { m.Entries[1] = m.Entries[0] }, "entries out of order at default/a"},
		{"bad namespace", func(m *wire.Manifest) { m.Entries[0].Namespace = "" }, `namespace name "" is empty`},
		{"bad name", func(m *wire.Manifest) { m.Entries[1].Name = "b_" }, `deployment name "b_" must be`},
		{"bad type", func(m *wire.Manifest) { m.Entries[0].Type = "has spaces" }, "default/a: bad score type"},
		{"no type", func(m *wire.Manifest) { m.Entries[0].Type = "" }, "default/a: bad score type"},
		{"no hash", func(m *wire.Manifest) { m.Entries[0].Hash = "" }, "default/a: bad hash"},
		{"hash in upper case", func(m *wire.Manifest) { m.Entries[0].Hash = strings.Repeat("A", 64) }, "default/a: bad hash"},
		{"hash with a path", func(m *wire.Manifest) { m.Entries[0].Hash = "../../etc/passwd" }, "default/a: bad hash"},
		{"empty score", func(m *wire.Manifest) { m.Entries[0].Size = 0 }, "default/a: size 0 is not within 1 to 262144"},
		{"negative size", func(m *wire.Manifest) { m.Entries[0].Size = -1 }, "default/a: size -1"},
		{"score too large", func(m *wire.Manifest) { m.Entries[0].Size = wire.MaxScoreSize + 1 }, "default/a: size 262145"},
		{"unknown retention", func(m *wire.Manifest) { m.Entries[0].VolumeRetention = "delete" }, `default/a: unknown volumeRetention "delete"`},
		{"unknown retention on hold", func(m *wire.Manifest) { m.Entries[0].Hold, m.Entries[0].VolumeRetention = true, "x" }, "unknown volumeRetention"},
		{"bad name on hold", func(m *wire.Manifest) { m.Entries[0].Hold, m.Entries[0].Name = true, "*" }, "deployment name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := goodManifest()
			tt.change(m)
			err := m.Validate()
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, wire.ErrManifest) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Validate() = %v, want ErrManifest with %q", err, tt.want)
			}
		})
	}
}

func TestValidScoreType(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		"PodmanV0": true, "_": true, "a1_B": true, strings.Repeat("a", wire.MaxScoreType): true,
		"": false, "has spaces": false, "0a": false, "a-b": false, "a.b": false, "a\n": false, "é": false,
		strings.Repeat("a", wire.MaxScoreType+1): false,
	}
	for name, want := range tests {
		if got := wire.ValidScoreType(name); got != want {
			t.Errorf("ValidScoreType(%q) = %v, want %v", name, got, want)
		}
	}
}

// The largest manifest that a server may issue still reaches the agent.
func TestFullManifestFitsIntoAReply(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("n", wire.MaxNameLength)
	m := &wire.Manifest{
		Version:  wire.Version{Epoch: strings.Repeat("e", 64), Term: ^uint64(0), Seq: ^uint64(0)},
		Complete: true,
		Time:     time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.FixedZone("", -12*3600-59*60)),
		Servers:  slices.Repeat([]string{"tls://" + strings.Repeat("s", 253) + ":65535"}, 32),
	}
	for i := range wire.MaxEntries {
		m.Entries = append(m.Entries, wire.Entry{
			DeploymentRef:   wire.DeploymentRef{Namespace: longest, Name: fmt.Sprintf("%s%03d", longest[3:], i)},
			Type:            strings.Repeat("T", wire.MaxScoreType),
			Hash:            wire.Sum(nil).String(),
			Size:            wire.MaxScoreSize,
			VolumeRetention: wire.RetainVolumes,
			Hold:            true, // never with the rest, but longer
		})
	}
	payload, err := json.Marshal(wire.SnapshotReply{Status: wire.SnapshotManifest, Manifest: m, Want: []wire.Want{wire.WantInfo, wire.WantState}})
	if err != nil {
		t.Fatal(err)
	}
	if len(payload) > wire.MaxReply {
		t.Fatalf("%d bytes, more than MaxReply (%d)", len(payload), wire.MaxReply)
	}
	if _, err := wire.DecodeManifestReply(payload); err != nil {
		t.Error(err)
	}
}
