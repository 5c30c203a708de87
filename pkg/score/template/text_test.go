package template_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fleet.nationtech.io/fleet/pkg/score/template"
)

// edge is a device.
func edge(s template.Source) (string, bool) {
	value, has := map[string]string{
		"device.name": "edge-1", "device.labels.site": "plant-1", "device.labels.empty": "", "device.annotations['plc/address']": "10.0.0.5",
		"device.inventory.arch": "arm64", "device.labels.evil": "${device.name}", "device.labels.line": "a\nb", "device.labels.bytes": "\xff", "device.labels.long": strings.Repeat("x", template.MaxValue+1),
	}[s.String()]
	return value, has
}

func TestRender(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "",
		"plain $5 {x}":                         "plain $5 {x}",
		"${device.name}":                       "edge-1",
		"a${device.labels.site}b":              "aplant-1b",
		"${device.labels['site']}":             "plant-1",
		"${device.name}${device.name}":         "edge-1edge-1",
		"${device.annotations['plc/address']}": "10.0.0.5",
		"${device.inventory.arch}":             "arm64",
		"${device.labels.none:-none}":          "none",
		"${device.labels.none:-}":              "",
		"${device.labels.empty:-none}":         "none",
		"${device.labels.empty}":               "",
		"${device.labels.site:-none}":          "plant-1",
		"${device.labels.none:-a:-b$}":         "a:-b$",
		"$${device.name}":                      "${device.name}",
		"$$${device.name}":                     "$${device.name}",
		"$${other.name}":                       "${other.name}",
		// Of shells, and no expressions.
		"echo ${HOME} ${device} ${device:-x} $$ $${HOME} ${a[0]} ${a%.*}": "echo ${HOME} ${device} ${device:-x} $$ $${HOME} ${a[0]} ${a%.*}",
		// A value is no template.
		"${device.labels.evil}": "${device.name}",
	} {
		parsed, err := template.Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got, err := parsed.Render(edge, 100); err != nil || got != want {
			t.Errorf("%q became %q, %v, want %q", text, got, err, want)
		}
		if template.Is(text) == (text == want) && want != "${device.name}" {
			t.Errorf("%q is a template: %v", text, template.Is(text))
		}
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"${device.name":                        "} is missing",
		"${devcie.labels.site}":                `devcie is unknown: an expression begins with device; for the text write $${devcie.labels.site`,
		"${spring.port}":                       "spring is unknown",
		"${device.lables.site}":                "device.lables is unknown: use device.name, device.labels,",
		"${device.}":                           "device. is unknown",
		"${device.name.x}":                     "nothing follows device.name",
		"${device.labels}":                     "device.labels needs a key",
		"${device.labels.}":                    "needs a key",
		"${device.labels.a.b}":                 "for one with dots or slashes",
		"${device.labels['']}":                 "needs a key",
		"${device.labels['a'}":                 "needs a key",
		"${device.labels[a]}":                  "needs a key",
		"${device.inventory.kernel}":           "device.inventory.kernel is unknown: use hostname,",
		"${device.labels.a:-${device.name}}":   "a default is a text",
		"ok ${device.name} ${device.labels }":  `device."labels " is unknown`,
		"${device.labels." + long(400) + "}":   "needs a key",
		"${device.annotations['a\nb']}":        "needs a key",
		"${device.labels.site-none} ${nope.a}": "nope is unknown",
	} {
		_, err := template.Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestValuesThatAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"${device.labels.none}":           "this device has no device.labels.none, and the score gives no default",
		"${device.annotations['none/a']}": "this device has no device.annotations['none/a']",
		"${device.labels.line}":           "has a control character",
		"${device.labels.bytes}":          "is not UTF-8",
		"${device.labels.long}":           "has 4097 bytes, at most 4096",
		long(101):                         "has more than 100 bytes",
	} {
		parsed, err := template.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsed.Render(edge, 100); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func long(n int) string { return strings.Repeat("a", n) }

func TestSources(t *testing.T) {
	t.Parallel()
	parsed, err := template.Parse("${device.name} $${device.labels.no} ${device.labels.a:-x} ${device.labels['a']} ${device.annotations['b/c']} ${device.name}")
	if err != nil {
		t.Fatal(err)
	}
	want := []template.Source{{Kind: template.Name}, {Kind: template.Labels, Key: "a"}, {Kind: template.Annotations, Key: "b/c"}}
	if diff := cmp.Diff(want, parsed.Sources()); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
}

// fragment draws what meets in texts.
func fragment() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"$", "{", "}", "${", "$$", "${device.", "$${device.", "device", ".", "name}", "labels", "['", "']", ":-", "a", "${HOME}", "${x.", "\n", "é"})
}

func TestQuotedTextIsItself(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(fragment(), 0, 12).Draw(t, "text"), "")
		parsed, err := template.Parse(template.Quote(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got, err := parsed.Render(nil, len(text)); err != nil || got != text || len(parsed.Sources()) > 0 {
			t.Fatalf("%q became %q, %v", text, got, err)
		}
	})
}

// What is rendered depends on the values of the sources alone.
func TestSourcesAreAllThatIsUsed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.OneOf(fragment(), rapid.SampledFrom([]string{"${device.labels.a}", "${device.labels.b:-x}", "${device.name}"})), 0, 8).Draw(t, "text"), "")
		parsed, err := template.Parse(text)
		if err != nil {
			t.Skip("a mistake")
		}
		uses := map[template.Source]bool{}
		for _, s := range parsed.Sources() {
			uses[s] = true
		}
		asked := map[template.Source]bool{}
		if _, err := parsed.Render(func(s template.Source) (string, bool) { asked[s] = true; return "v", true }, 1<<20); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(uses, asked); diff != "" {
			t.Fatalf("sources of %q, and values that were asked for:\n%s", text, diff)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "${device.name}", "$${device.name}", "${device.labels['a/b']:-c}", "${device.labels.a", "$$$${x.y}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := template.Parse(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 500 {
				t.Fatalf("the error about %q is no short line: %v", text, err)
			}
			return
		}
		if !template.Is(text) {
			if got, err := parsed.Render(nil, len(text)); err != nil || got != text {
				t.Fatalf("%q without an expression became %q, %v", text, got, err)
			}
		}
		for _, s := range parsed.Sources() {
			again, err := template.Parse("${" + s.String() + "}")
			if err != nil || !cmp.Equal(again.Sources(), []template.Source{s}) {
				t.Fatalf("%s is read as %v, %v", s, again.Sources(), err)
			}
		}
	})
}
