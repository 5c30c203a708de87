package wire_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

const (
	session = "0123456789abcdef"
	inbox   = "_INBOX_edge_" + session
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
		must(wire.UpSubject("edge", wire.KindSnapshot)):           "fleet.v1.up.edge.snapshot",
		must(wire.UpSubject("edge", wire.KindBody)):               "fleet.v1.up.edge.body",
		must(wire.UpSubject("edge", wire.KindInfo)):               "fleet.v1.up.edge.info",
		must(wire.UpSubject("edge", wire.KindState)):              "fleet.v1.up.edge.state",
		must(wire.UpSubject("edge", wire.KindHeartbeat)):          "fleet.v1.up.edge.heartbeat",
		must(wire.DownAll("edge", session)):                       "fleet.v1.down.edge." + session + ".>",
		must(wire.DownSubject("edge", session, wire.KindNudge)):   "fleet.v1.down.edge." + session + ".nudge",
		must(wire.DownSubject("edge", session, wire.KindRevoked)): "fleet.v1.down.edge." + session + ".revoked",
		must(wire.InboxPrefix("edge", session)):                   "_INBOX_edge_" + session,
		must(wire.UpAll("edge")):                                  "fleet.v1.up.edge.*",
		wire.UpWildcard:                                           "fleet.v1.up.*.*",
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
		_, parsed, parseErr := wire.ParseUpSubject(byHand)
		if (buildErr == nil) != (parseErr == nil && parsed != wire.KindUnknown) {
			t.Fatalf("build: %v, parse(%q): %q, %v", buildErr, byHand, parsed, parseErr)
		}
		if parseErr != nil && !errors.Is(parseErr, wire.ErrSubject) {
			t.Fatalf("parse(%q) = %v, want ErrSubject", byHand, parseErr)
		}
	})
}

func TestKindsThatAreNotKnown(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"reboot", "State", "nudge", "unknown", "1"} {
		if device, got, err := wire.ParseUpSubject("fleet.v1.up.edge." + kind); device != "edge" || got != wire.KindUnknown || err != nil {
			t.Errorf("kind %q is read as %q of %q, %v", kind, got, device, err)
		}
	}
	for _, kind := range []string{"", "a.b", "*", ">", "a b", "a\n"} {
		if _, _, err := wire.ParseUpSubject("fleet.v1.up.edge." + kind); !errors.Is(err, wire.ErrSubject) {
			t.Errorf("kind %q: %v, want ErrSubject", kind, err)
		}
	}
}

func TestUpSubjectRefusesUnknownKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []wire.Kind{"", "nudge", "state.x", ">", wire.KindUnknown} {
		if _, err := wire.UpSubject("edge", kind); !errors.Is(err, wire.ErrSubject) {
			t.Errorf("UpSubject(edge, %q) = %v, want ErrSubject", kind, err)
		}
	}
}

func TestDownSubjectRefusesOtherKinds(t *testing.T) {
	t.Parallel()
	for _, kind := range []wire.Kind{"", "state", "nudge.x", ">"} {
		if _, err := wire.DownSubject("edge", session, kind); !errors.Is(err, wire.ErrSubject) {
			t.Errorf("DownSubject(%q) = %v, want ErrSubject", kind, err)
		}
	}
}

func nudge(device, session string) (string, error) {
	return wire.DownSubject(device, session, wire.KindNudge)
}

func TestSubjectsRefuseHostileDevices(t *testing.T) {
	t.Parallel()
	builders := map[string]func(string) (string, error){
		"UpAll":       wire.UpAll,
		"UpSubject":   func(d string) (string, error) { return wire.UpSubject(d, wire.KindState) },
		"DownAll":     func(d string) (string, error) { return wire.DownAll(d, session) },
		"DownSubject": func(d string) (string, error) { return nudge(d, session) },
		"InboxPrefix": func(d string) (string, error) { return wire.InboxPrefix(d, session) },
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

func TestSubjectsRefuseHostileSessions(t *testing.T) {
	t.Parallel()
	for _, hostile := range []string{"", "*", ">", session + ".>", session + "*", "_" + session, strings.ToUpper(session) + "A", session[:15], strings.Repeat("a", 65)} {
		for name, build := range map[string]func(device, session string) (string, error){
			"DownAll": wire.DownAll, "DownSubject": nudge, "InboxPrefix": wire.InboxPrefix,
		} {
			if got, err := build("edge", hostile); !errors.Is(err, wire.ErrSubject) {
				t.Errorf("%s(%q) = %q, %v, want ErrSubject", name, hostile, got, err)
			}
		}
	}
}

// What one session may receive or be answered on never covers another's, of the
// same device or of others.
func TestSubjectsOfDevicesAreDisjoint(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.StringMatching(`[ab](-?[ab])?`)
		a, b := short.Draw(t, "a"), short.Draw(t, "b")
		ids := rapid.StringMatching(`[01]{16,17}`)
		mine, other := ids.Draw(t, "session"), ids.Draw(t, "other session")
		same := a == b && mine == other
		pattern, _ := wire.DownAll(a, mine)
		subject, _ := wire.DownSubject(b, other, wire.KindNudge)
		if strings.HasPrefix(subject, strings.TrimSuffix(pattern, ">")) != same {
			t.Fatalf("%q against %q", pattern, subject)
		}
		prefix, _ := wire.InboxPrefix(b, other)
		if wire.IsReplyOf(a, mine, prefix+".x") != same {
			t.Fatalf("IsReplyOf(%q, %q, %q) = %v", a, mine, prefix+".x", !same)
		}
	})
}

func TestIsReplyOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, device, reply string
		want                bool
	}{
		{"own inbox", "edge", inbox + ".abc", true},
		{"own inbox, more tokens", "edge", inbox + ".abc.1", true},
		{"none", "edge", "", false},
		{"prefix alone", "edge", inbox, false},
		{"prefix and dot", "edge", inbox + ".", false},
		{"another session", "edge", "_INBOX_edge_fedcba9876543210.abc", false},
		{"the inbox of all sessions", "edge", "_INBOX_edge.abc", false},
		{"another device", "edge", "_INBOX_other_" + session + ".abc", false},
		{"longer device name", "edge", "_INBOX_edge2_" + session + ".abc", false},
		{"default inbox", "edge", "_INBOX.abc", false},
		{"wildcard", "edge", inbox + ".*", false},
		{"full wildcard", "edge", inbox + ".>", false},
		{"JetStream", "edge", "$JS.API.STREAM.DELETE.KV_desired-state", false},
		{"a bucket", "edge", "$KV.desired-state.other.default.hello", false},
		{"another's nudge", "edge", "fleet.v1.down.other." + session + ".nudge", false},
		{"line break", "edge", inbox + ".a\r\nPUB", false},
		{"no device", "", "_INBOX__" + session + ".abc", false},
		{"device with wildcard", "*", "_INBOX_*_" + session + ".abc", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := wire.IsReplyOf(tt.device, session, tt.reply); got != tt.want {
				t.Errorf("IsReplyOf(%q, %q) = %v, want %v", tt.device, tt.reply, got, tt.want)
			}
		})
	}
}

func TestSubjectErrorIsBounded(t *testing.T) {
	t.Parallel()
	_, _, up := wire.ParseUpSubject(strings.Repeat("\n", 1<<20))
	_, down := wire.DownSubject("edge", strings.Repeat("\n", 1<<20), wire.KindNudge)
	for name, err := range map[string]error{"up": up, "session": down} {
		if !errors.Is(err, wire.ErrSubject) || len(err.Error()) > 1<<10 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error is not one short line: %.200q", name, err)
		}
	}
}

// The inbox of version 0.1.0 was that of a device, whatever its session.
func TestSharedReplies(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]bool{
		"_INBOX_press-7.x.1":                       true,
		"_INBOX_press-7_0123456789abcdef.x.1":      false,
		"_INBOX_press-70.x.1":                      false,
		"_INBOX_press-7":                           false,
		"x_INBOX_press-7.x":                        false,
		"_INBOX_.x":                                false,
		"fleet.v1.down.press-7.0123456789abcdef.x": false,
	} {
		if got := wire.IsSharedReply("press-7", reply); got != want {
			t.Errorf("%s is shared: %v, want %v", reply, got, want)
		}
	}
	if wire.IsSharedReply("", "_INBOX_.x") || wire.IsSharedReply("A.b", "_INBOX_A.b.x") {
		t.Error("what is no device has an inbox")
	}
}
