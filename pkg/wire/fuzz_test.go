package wire_test

import (
	"bytes"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// Each target checks the same thing: whatever the parser accepts, the builder
// makes again, and every refusal is one of the package's errors.

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{"edge.default.hello", "state.edge.default.hello", "info.edge", "heartbeat.edge", "info.a.b", "..", "state.a.b", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		accepted := 0
		for _, form := range keyForms {
			device, ref, err := form.parse(key)
			if err != nil {
				if !errors.Is(err, wire.ErrKey) {
					t.Errorf("%s: %v is no ErrKey", form.name, err)
				}
				continue
			}
			accepted++
			if again, err := form.build(device, ref); err != nil || again != key {
				t.Errorf("%s: %q is built as %q, %v", form.name, key, again, err)
			}
		}
		if accepted > 1 {
			t.Errorf("%q is a key of %d forms", key, accepted)
		}
	})
}

func FuzzParseUpSubject(f *testing.F) {
	for _, seed := range []string{"fleet.v1.up.edge.snapshot", "fleet.v1.up.edge.state.x", "fleet.v1.up.*.>", "fleet.v1.up..info", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		device, kind, err := wire.ParseUpSubject(subject)
		if err != nil {
			if !errors.Is(err, wire.ErrSubject) {
				t.Errorf("%v is no ErrSubject", err)
			}
			return
		}
		if kind == wire.KindUnknown {
			return
		}
		if again, err := wire.UpSubject(device, kind); err != nil || again != subject {
			t.Errorf("%q is built as %q, %v", subject, again, err)
		}
	})
}

func FuzzIsReplyOf(f *testing.F) {
	f.Add("edge", session, inbox+".abc")
	f.Add("edge", session, "_INBOX_edge2_"+session+".abc")
	f.Add("*", session, "_INBOX_*_"+session+".abc")
	f.Add("edge", ">", "_INBOX_edge_>.abc")
	f.Fuzz(func(t *testing.T, device, session, reply string) {
		if !wire.IsReplyOf(device, session, reply) {
			return
		}
		if wire.ValidateDevice(device) != nil || !wire.ValidSession(session) || !strings.HasPrefix(reply, "_INBOX_"+device+"_"+session+".") || strings.ContainsAny(reply, "*> \r\n") {
			t.Errorf("IsReplyOf(%q, %q, %q)", device, session, reply)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add(wire.Token{CAHash: wire.Sum(nil), ID: "spring"}.Encode())
	f.Add("FLT1.." + strings.Repeat("a", 32))
	f.Add("FLT1." + strings.Repeat("ab", 32) + ".spring.aaaaaaaaaaaaaaaa\naaaaaaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := wire.ParseToken(text)
		if err != nil {
			if !errors.Is(err, wire.ErrToken) {
				t.Errorf("%v is no ErrToken", err)
			}
			return
		}
		if again := token.Encode(); again != strings.TrimSpace(text) {
			t.Errorf("%q is encoded as %q", text, again)
		}
	})
}

func FuzzParseDeviceURI(f *testing.F) {
	for _, seed := range []string{"spiffe://fleet/device/edge", "spiffe://fleet/device/%65dge", "spiffe://a@fleet/device/edge?", "/device/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		fleet, device, err := wire.ParseDeviceURI(u)
		if err != nil {
			if !errors.Is(err, wire.ErrIdentity) {
				t.Errorf("%v is no ErrIdentity", err)
			}
			return
		}
		again, err := wire.DeviceURI(fleet, device)
		if err != nil || *again != *u {
			t.Errorf("%q is built as %v, %v", text, again, err)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"namespace":"default","name":"hello","phase":"Running","lastEventAt":"2026-11-21T00:00:00Z"}`))
	f.Add([]byte(`{"namespace":"default","name":"hello","phase":"Failed","error":"x","containers":[{"service":"web","exitCode":1}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		state, err := wire.DecodeState(payload)
		if err != nil {
			checkRefusal(t, err, payload)
			return
		}
		sent := encode(t, state)
		if len(sent) > wire.KindState.Verb().MaxRequest {
			return // escaping made it longer
		}
		again, err := wire.DecodeState(sent)
		if err != nil {
			t.Fatalf("an accepted report is refused when it is sent on: %v", err)
		}
		if diff := cmp.Diff(state, again, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzDecodeManifestReply(f *testing.F) {
	f.Add([]byte(`{"status":"notModified"}`))
	f.Add([]byte(`{"status":"manifest","manifest":{"epoch":"e","term":1,"seq":1,"complete":true,"time":"2026-11-21T00:00:00Z","entries":[{"namespace":"a","name":"b","hold":true}]}}`))
	f.Add([]byte(`{"error":{"code":"unavailable","message":"x"}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		reply, err := wire.DecodeManifestReply(payload)
		if err != nil {
			checkRefusal(t, err, payload)
			return
		}
		if reply.Error == nil && reply.Status == wire.SnapshotManifest {
			checkManifest(t, reply.Manifest)
		}
	})
}

// checkManifest fails unless the manifest may be acted upon.
func checkManifest(t *testing.T, m *wire.Manifest) {
	t.Helper()
	if m == nil || !m.Complete || m.Epoch == "" || m.Term == 0 || m.Seq == 0 || len(m.Entries) > wire.MaxEntries {
		t.Fatalf("accepted manifest %+v", m)
	}
	for _, e := range m.Entries {
		if got, ok := m.Find(e.DeploymentRef); !ok || got != e || e.DeploymentRef.Validate() != nil {
			t.Errorf("entry %+v is not found", e)
		}
	}
}

// FuzzDecode covers the payloads that have no rules beyond their JSON form.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"have":{"epoch":"e","term":1,"seq":1},"infoHash":"x"}`))
	f.Add([]byte(`{"hash":"x","offset":-1}`))
	f.Add([]byte(`{"at":1,"up":2}`))
	f.Add([]byte(`{"token":"FLT1.x","device":"edge","csr":"x","inventory":{"cpuCores":4}}`))
	f.Add([]byte(`{"inventory":{"addresses":["::1"]},"conditions":[{"type":"PodmanReady"}],"labels":{"a":"b"}}`))
	f.Add([]byte(`{"size":3,"data":"AAAA"}`))
	f.Add([]byte(`{"registries":["gateway:8443"],"user":"edge","password":"x"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		fuzzDecode[wire.SnapshotRequest](t, payload)
		fuzzDecode[wire.BodyRequest](t, payload)
		fuzzDecode[wire.BodyReply](t, payload)
		fuzzDecode[wire.DeviceInfo](t, payload)
		fuzzDecode[wire.Heartbeat](t, payload)
		fuzzDecode[wire.Ack](t, payload)
		fuzzDecode[wire.EnrollRequest](t, payload)
		fuzzDecode[wire.EnrollReply](t, payload)
		fuzzDecode[wire.Score](t, payload)
		fuzzDecode[wire.SecretRequest](t, payload)
		fuzzDecode[wire.SecretReply](t, payload)
		fuzzDecode[wire.RenewRequest](t, payload)
		fuzzDecode[wire.RevokedNotice](t, payload)
		fuzzDecode[wire.SignedTime](t, payload)
		fuzzDecode[wire.RegistryRequest](t, payload)
		fuzzDecode[wire.RegistryReply](t, payload)
	})
}

func fuzzDecode[T any](t *testing.T, payload []byte) {
	t.Helper()
	const limit = 1 << 10
	v, err := wire.Decode[T](payload, limit)
	if err != nil {
		checkRefusal(t, err, payload)
		return
	}
	if len(payload) > limit {
		t.Errorf("%T of %d bytes passed a limit of %d", v, len(payload), limit)
	}
}

// checkRefusal fails unless the error is one of the package's, short, and
// without a longer piece of the payload, which may hold secrets.
func checkRefusal(t *testing.T, err error, payload []byte) {
	t.Helper()
	if !errors.Is(err, wire.ErrPayload) && !errors.Is(err, wire.ErrManifest) {
		t.Errorf("%v is none of the package's errors", err)
	}
	if len(err.Error()) > 1<<10 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
	if len(payload) > 128 && bytes.Contains([]byte(err.Error()), payload) {
		t.Errorf("error repeats the payload: %v", err)
	}
}

// FuzzSubjects covers what devices could put into a subject in place of a name.
func FuzzSubjects(f *testing.F) {
	for _, seed := range []string{"edge", "", "*", ">", "a.b", "A", "edge ", "edge\x00", "édge"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, device string) {
		for _, kind := range wire.Kinds {
			subject, err := wire.UpSubject(device, kind)
			if err != nil {
				return
			}
			if got, k, err := wire.ParseUpSubject(subject); err != nil || got != device || k != kind {
				t.Errorf("%q is read as %q, %q, %v", subject, got, k, err)
			}
		}
		nudge, err := wire.DownSubject(device, session, wire.KindNudge)
		if err != nil || strings.Count(nudge, ".") != 5 {
			t.Errorf("%q has another number of tokens: %v", nudge, err)
		}
	})
}

// FuzzValidSession: a session id is hex, whatever a device calls itself.
func FuzzValidSession(f *testing.F) {
	for _, seed := range []string{"0123456789abcdef", "0123456789ABCDEF", "", "0123456789abcdef\r\nx: y", "%[1]999s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if wire.ValidSession(s) && (len(s) < 16 || len(s) > 64 || strings.Trim(s, "0123456789abcdef") != "") {
			t.Errorf("%q is valid", s)
		}
	})
}
