package printable_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"fleet.nationtech.io/fleet/pkg/printable"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain, ünïcode, 日本 …":  "plain, ünïcode, 日本 …",
		"\x1b[2J":               `\u001b[2J`,
		"\x1b]0;title\x07":      `\u001b]0;title\u0007`,
		"a\nb\r\tc\v\fd":        "a b  c  d",
		"next\u0085line\u2028x": `next line x`,
		"\x7f\u009b31m":         `\u007f\u009b31m`,
		"\x00\b":                `\u0000\u0008`,
		"a\u202eb\u2066c\u200f": `a\u202eb\u2066c\u200f`,
		"\u200bzero\ufeff":      `\u200bzero\ufeff`,
		"\xff\x9b":              "\ufffd\ufffd",
		"tag \U000e0041":        `tag \udb40\udc41`,
		"private \ue000":        `private \ue000`,
	} {
		if got := printable.Line(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestLinesKeepsItsLines(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff("a\n\tb\\u000d\\u001bc", printable.Lines("a\n\tb\r\x1bc")); diff != "" {
		t.Error(diff)
	}
}

func TestFprintf(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	printable.Fprintf(&b, "%s\t%q\t%5d|%-6s|%v\n", "a\n\x1b", "b\n", 7, "c\t", errors.New("d\rx"))
	if diff := cmp.Diff(`a \u001b`+"\t"+`"b\n"`+"\t    7|c     |d x\n", b.String()); diff != "" {
		t.Error(diff)
	}
}

// TestWriterPutsCharactersTogether: writers split where they like.
func TestWriterPutsCharactersTogether(t *testing.T) {
	t.Parallel()
	const text = "é日\U0001f600 \u202e\x1b\xff\xe2\x80 end\n"
	want := printable.Lines(text)
	for size := 1; size <= len(text); size++ {
		var b bytes.Buffer
		w := printable.NewWriter(&b)
		for rest := []byte(text); len(rest) > 0; {
			n, err := w.Write(rest[:min(size, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if b.String() != want {
			t.Errorf("in pieces of %d bytes: %q, want %q", size, b.String(), want)
		}
	}
}

func TestJSONStaysTheSame(t *testing.T) {
	t.Parallel()
	in := map[string]string{"key": "\x1b\x7f\u009b\u202e\U000e0041 \n\t é"}
	var b bytes.Buffer
	if err := json.NewEncoder(printable.NewWriter(&b)).Encode(in); err != nil {
		t.Fatal(err)
	}
	var out map[string]string
	if err := json.Unmarshal(b.Bytes(), &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Error(diff)
	}
}

func TestExact(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if printable.Exact(printable.NewWriter(&b)) != &b || printable.Exact(&b) != &b {
		t.Error("a buffer is changed")
	}
	device, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if w := printable.NewWriter(device); printable.Exact(w) != w {
		t.Error("a terminal gets everything")
	}
}

func FuzzLine(f *testing.F) {
	for _, seed := range []string{"", "a", "\x1b[31m", "\xff", "\u202e", "\u2028", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := printable.Line(text)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsGraphic(r) }) {
			t.Errorf("%q becomes %q", text, got)
		}
		if again := printable.Line(got); again != got {
			t.Errorf("%q becomes %q", got, again)
		}
	})
}

func TestSqueeze(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", " \n\t": "", "one": "one", "  no\r\n  such\thost \x1b[31m\n": `no such host \u001b[31m`, "a\xff\xfe b": "a\uFFFD\uFFFD b",
	} {
		if got := printable.Squeeze(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
