package wire_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

func TestSubjectForms(t *testing.T) {
	t.Parallel()
	must := func(s string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// The literal names are the protocol: changing one breaks every agent in
	// the field.
	for got, want := range map[string]string{
		must(wire.UpSubject("edge", wire.KindSnapshot)):  "fleet.v1.up.edge.snapshot",
		must(wire.UpSubject("edge", wire.KindBody)):      "fleet.v1.up.edge.body",
		must(wire.UpSubject("edge", wire.KindInfo)):      "fleet.v1.up.edge.info",
		must(wire.UpSubject("edge", wire.KindState)):     "fleet.v1.up.edge.state",
		must(wire.UpSubject("edge", wire.KindHeartbeat)): "fleet.v1.up.edge.heartbeat",
		must(wire.UpAll("edge")):                         "fleet.v1.up.edge.>",
		must(wire.DownAll("edge")):                       "fleet.v1.down.edge.>",
		must(wire.NudgeSubject("edge")):                  "fleet.v1.down.edge.nudge",
		must(wire.InboxPrefix("edge")):                   "_INBOX_edge",
		wire.UpWildcard(wire.KindState):                  "fleet.v1.up.*.state",
	} {
		if got != want {
			t.Errorf("subject %q, want %q", got, want)
		}
	}
}

func TestUpSubjectParseInvertsBuild(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		device := validName().Draw(t, "device")
		kind := rapid.SampledFrom(wire.Kinds).Draw(t, "kind")
		subject, err := wire.UpSubject(device, kind)
		if err != nil {
			t.Fatal(err)
		}
		gotDevice, gotKind, err := wire.ParseUpSubject(subject)
		if err != nil || gotDevice != device || gotKind != kind {
			t.Fatalf("ParseUpSubject(%q) = %q, %q, %v", subject, gotDevice, gotKind, err)
		}
	})
}

func TestUpSubjectParserAcceptsOnlyWhatIsBuilt(t *testing.T) {
	t.Parallel()
	kinds := rapid.OneOf(rapid.SampledFrom([]string{"snapshot", "state", "", "*", ">", "state.x", "State", "nudge"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		device, kind := anyName().Draw(t, "device"), kinds.Draw(t, "kind")
		byHand := "fleet.v1.up." + device + "." + kind
		_, buildErr := wire.UpSubject(device, wire.Kind(kind))
		_, _, parseErr := wire.ParseUpSubject(byHand)
		if (buildErr == nil) != (parseErr == nil) {
			t.Fatalf("build: %v, parse(%q): %v", buildErr, byHand, parseErr)
		}
		if parseErr != nil && !errors.Is(parseErr, wire.ErrSubject) {
			t.Fatalf("parse(%q) = %v, want ErrSubject", byHand, parseErr)
		}
	})
}

func TestUpSubjectRefusesUnknownKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []wire.Kind{"", "nudge", "state.x", ">"} {
		if _, err := wire.UpSubject("edge", kind); !errors.Is(err, wire.ErrSubject) {
			t.Errorf("UpSubject(edge, %q) = %v, want ErrSubject", kind, err)
		}
	}
}

func TestNudgeSubjectParseInvertsBuild(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		device := anyName().Draw(t, "device")
		subject, buildErr := wire.NudgeSubject(device)
		if buildErr != nil {
			subject = "fleet.v1.down." + device + ".nudge"
		}
		got, err := wire.ParseNudgeSubject(subject)
		if (buildErr == nil) != (err == nil) {
			t.Fatalf("build: %v, parse(%q): %v", buildErr, subject, err)
		}
		if err == nil && got != device {
			t.Fatalf("ParseNudgeSubject(%q) = %q", subject, got)
		}
		if err != nil && !errors.Is(err, wire.ErrSubject) {
			t.Fatalf("ParseNudgeSubject(%q) = %v, want ErrSubject", subject, err)
		}
	})
}

func TestSubjectsRefuseHostileDevices(t *testing.T) {
	t.Parallel()
	builders := map[string]func(string) (string, error){
		"UpSubject":    func(d string) (string, error) { return wire.UpSubject(d, wire.KindState) },
		"UpAll":        wire.UpAll,
		"DownAll":      wire.DownAll,
		"NudgeSubject": wire.NudgeSubject,
		"InboxPrefix":  wire.InboxPrefix,
	}
	for name, build := range builders {
		for _, device := range hostileNames {
			_, err := build(device)
			if _, ok := errors.AsType[*wire.NameError](err); !ok {
				t.Errorf("%s(%.40q) = %v, want a *NameError", name, device, err)
			}
		}
	}
}

// What one device may publish, receive or be answered on never covers
// another's.
func TestSubjectsOfDevicesAreDisjoint(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.StringMatching(`[ab](-?[ab])?`)
		a, b := short.Draw(t, "a"), short.Draw(t, "b")
		pattern, _ := wire.UpAll(a)
		subject, _ := wire.UpSubject(b, wire.KindState)
		if strings.HasPrefix(subject, strings.TrimSuffix(pattern, ">")) != (a == b) {
			t.Fatalf("%q against %q", pattern, subject)
		}
		prefix, _ := wire.InboxPrefix(b)
		if wire.IsReplyOf(a, prefix+".x") != (a == b) {
			t.Fatalf("IsReplyOf(%q, %q) = %v", a, prefix+".x", a != b)
		}
	})
}

func TestIsReplyOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, device, reply string
		want                bool
	}{
		{"own inbox", "edge", "_INBOX_edge.abc", true},
		{"own inbox, more tokens", "edge", "_INBOX_edge.abc.1", true},
		{"none", "edge", "", false},
		{"prefix alone", "edge", "_INBOX_edge", false},
		{"prefix and dot", "edge", "_INBOX_edge.", false},
		{"another device", "edge", "_INBOX_other.abc", false},
		{"longer device name", "edge", "_INBOX_edge2.abc", false},
		{"default inbox", "edge", "_INBOX.abc", false},
		{"wildcard", "edge", "_INBOX_edge.*", false},
		{"full wildcard", "edge", "_INBOX_edge.>", false},
		{"JetStream", "edge", "$JS.API.STREAM.DELETE.KV_desired-state", false},
		{"a bucket", "edge", "$KV.desired-state.other.default.hello", false},
		{"another's nudge", "edge", "fleet.v1.down.other.nudge", false},
		{"line break", "edge", "_INBOX_edge.a\r\nPUB", false},
		{"no device", "", "_INBOX_.abc", false},
		{"device with wildcard", "*", "_INBOX_*.abc", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := wire.IsReplyOf(tt.device, tt.reply); got != tt.want {
				t.Errorf("IsReplyOf(%q, %q) = %v, want %v", tt.device, tt.reply, got, tt.want)
			}
		})
	}
}

func TestSubjectErrorIsBounded(t *testing.T) {
	t.Parallel()
	for name, parse := range map[string]func(string) error{
		"up":    func(s string) error { _, _, err := wire.ParseUpSubject(s); return err },
		"nudge": func(s string) error { _, err := wire.ParseNudgeSubject(s); return err },
	} {
		err := parse(strings.Repeat("\n", 1<<20))
		if !errors.Is(err, wire.ErrSubject) || len(err.Error()) > 1<<10 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error is not one short line: %.200q", name, err)
		}
	}
}
