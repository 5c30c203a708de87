package wire_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// keyForm is one form of bucket key. Forms of a device alone ignore the
// reference.
type keyForm struct {
	name  string
	hasID bool // the key names a Deployment too
	build func(device string, ref wire.DeploymentRef) (string, error)
	parse func(key string) (string, wire.DeploymentRef, error)
}

var keyForms = []keyForm{
	{"desired state", true, wire.DesiredStateKey, wire.ParseDesiredStateKey},
	{"state", true, wire.StateKey, wire.ParseStateKey},
	deviceForm("info", wire.InfoKey, wire.ParseInfoKey),
	deviceForm("heartbeat", wire.HeartbeatKey, wire.ParseHeartbeatKey),
}

func deviceForm(name string, build func(string) (string, error), parse func(string) (string, error)) keyForm {
	return keyForm{
		name:  name,
		build: func(device string, _ wire.DeploymentRef) (string, error) { return build(device) },
		parse: func(key string) (string, wire.DeploymentRef, error) {
			device, err := parse(key)
			return device, wire.DeploymentRef{}, err
		},
	}
}

// drawRef draws a reference where the form has one.
func (f keyForm) drawRef(t *rapid.T, refs *rapid.Generator[wire.DeploymentRef], label string) wire.DeploymentRef {
	if !f.hasID {
		return wire.DeploymentRef{}
	}
	return refs.Draw(t, label)
}

func TestKeyParseInvertsBuild(t *testing.T) {
	t.Parallel()
	for _, form := range keyForms {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				device, ref := validName().Draw(t, "device"), form.drawRef(t, validRef(), "ref")
				key, err := form.build(device, ref)
				if err != nil {
					t.Fatal(err)
				}
				gotDevice, gotRef, err := form.parse(key)
				if err != nil || gotDevice != device || gotRef != ref {
					t.Fatalf("parse(%q) = %q, %v, %v; want %q, %v", key, gotDevice, gotRef, err, device, ref)
				}
			})
		})
	}
}

// No two inputs share a key, in one bucket or across all of them: a tool that
// is pointed at the wrong bucket finds nothing rather than the wrong thing.
func TestKeysAreDistinct(t *testing.T) {
	t.Parallel()
	type input struct {
		form   string
		device string
		ref    wire.DeploymentRef
	}
	// Few names, and those that the keys' own prefixes could be taken for.
	names := rapid.SampledFrom([]string{"info", "state", "heartbeat", "a", "b", "a-b"})
	rapid.Check(t, func(t *rapid.T) {
		seen := map[string]input{}
		for range 50 {
			form := rapid.SampledFrom(keyForms).Draw(t, "form")
			in := input{form.name, names.Draw(t, "device"), form.drawRef(t, refOf(names), "ref")}
			key, err := form.build(in.device, in.ref)
			if err != nil {
				t.Fatal(err)
			}
			if other, ok := seen[key]; ok && other != in {
				t.Fatalf("%+v and %+v share the key %q", in, other, key)
			}
			seen[key] = in
		}
	})
}

// A key of one form is no key of another.
func TestKeyParsersRefuseOtherForms(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([]string{"info", "state", "heartbeat", "a"})
		for _, from := range keyForms {
			key, err := from.build(names.Draw(t, "device"), from.drawRef(t, refOf(names), "ref"))
			if err != nil {
				t.Fatal(err)
			}
			for _, to := range keyForms {
				if _, _, err := to.parse(key); (err == nil) != (to.name == from.name) {
					t.Fatalf("%s key %q read as %s: %v", from.name, key, to.name, err)
				}
			}
		}
	})
}

// What the builder refuses its parser refuses too, when it is put together by
// hand; and whatever the parser accepts the builder makes.
func TestKeyParserAcceptsOnlyWhatIsBuilt(t *testing.T) {
	t.Parallel()
	prefixes := map[string]string{"state": "state.", "info": "info.", "heartbeat": "heartbeat."}
	for _, form := range keyForms {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				device, ref := anyName().Draw(t, "device"), form.drawRef(t, refOf(anyName()), "ref")
				byHand := prefixes[form.name] + device
				if form.hasID {
					byHand += "." + ref.Namespace + "." + ref.Name
				}
				_, buildErr := form.build(device, ref)
				gotDevice, gotRef, parseErr := form.parse(byHand)
				if (buildErr == nil) != (parseErr == nil) {
					t.Fatalf("build: %v, parse(%q): %v", buildErr, byHand, parseErr)
				}
				if parseErr != nil && !errors.Is(parseErr, wire.ErrKey) {
					t.Fatalf("parse(%q) = %v, want ErrKey", byHand, parseErr)
				}
				if parseErr == nil && (gotDevice != device || gotRef != ref) {
					t.Fatalf("parse(%q) = %q, %v", byHand, gotDevice, gotRef)
				}
			})
		})
	}
}

func TestKeyErrors(t *testing.T) {
	t.Parallel()
	ref := wire.DeploymentRef{Namespace: "default", Name: "hello"}
	for _, form := range keyForms {
		t.Run(form.name, func(t *testing.T) {
			t.Parallel()
			for _, bad := range hostileNames {
				_, err := form.build(bad, ref)
				if _, ok := errors.AsType[*wire.NameError](err); !ok {
					t.Errorf("build(%.40q) = %v, want a *NameError", bad, err)
				}
			}
			if !form.hasID {
				return
			}
			if _, err := form.build("edge", wire.DeploymentRef{Name: "hello"}); !errors.Is(err, wire.ErrNameEmpty) {
				t.Errorf("no namespace: %v, want ErrNameEmpty", err)
			}
		})
	}
}

func TestParseKeyErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, key string
		reason    error // beside ErrKey
	}{
		{"empty", "", wire.ErrKey},
		{"too few names", "edge.default", wire.ErrKey},
		{"too many names", "edge.default.hello.x", wire.ErrKey},
		{"wildcard", "edge.default.>", wire.ErrNameInvalid},
		{"empty name", "edge..hello", wire.ErrNameEmpty},
		{"long name", "edge.default." + strings.Repeat("a", 64), wire.ErrNameTooLong},
		{"upper case", "Edge.default.hello", wire.ErrNameInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for prefix, parse := range map[string]func(string) (string, wire.DeploymentRef, error){
				"": wire.ParseDesiredStateKey, "state.": wire.ParseStateKey,
			} {
				_, _, err := parse(prefix + tt.key)
				if !errors.Is(err, wire.ErrKey) || !errors.Is(err, tt.reason) {
					t.Errorf("parse(%q) = %v, want ErrKey and %v", prefix+tt.key, err, tt.reason)
				}
			}
		})
	}
}

// An error about a key that came from outside stays short and on one line.
func TestKeyErrorIsBounded(t *testing.T) {
	t.Parallel()
	for _, form := range keyForms {
		_, _, err := form.parse(strings.Repeat("\n.", 1<<20))
		if err == nil || len(err.Error()) > 2<<10 || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error is not one short line: %.200q", form.name, err)
		}
	}
}
