package trace_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"fleet.nationtech.io/fleet/test/trace"
)

// text has bits that the two alphabets of base64 write differently.
const (
	text  = "opens>>>e?sa?me"
	other = "opens>>>e?sb?me"
)

func TestEveryFormIsFound(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"as it is": "x" + text + "x", "hex": hex.EncodeToString([]byte("x" + text + "x")), "capitals": fmt.Sprintf("%X", "x"+text+"x"),
	}
	for name, encoding := range map[string]*base64.Encoding{
		"standard": base64.StdEncoding, "URL": base64.URLEncoding, "standard, without padding": base64.RawStdEncoding, "URL, without padding": base64.RawURLEncoding,
	} {
		for before := range 7 {
			for after := range 7 {
				framed := strings.Repeat("\xff", before) + text + strings.Repeat("\xff", after)
				files[fmt.Sprintf("%s, %d before, %d after", name, before, after)] = "x" + encoding.EncodeToString([]byte(framed)) + "x"
			}
		}
	}
	for _, key := range []string{"a", "bb", "ccc"} {
		data, err := json.Marshal(map[string]map[string][]byte{"db": {key: []byte(text), "z": []byte("z")}})
		if err != nil {
			t.Fatal(err)
		}
		files["JSON with "+key] = string(data)
		files["JSON in base64 with "+key] = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{%q:%q}`, key, text))
	}
	for name, content := range files {
		if !trace.In([]byte(content), text) {
			t.Errorf("%s: nothing is found in %q", name, content)
		}
		if trace.In([]byte(content), other) {
			t.Errorf("%s: another text is found in %q", name, content)
		}
	}
}

func TestFilesAreNamed(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	var want []string
	for path, content := range map[string]string{"a": text, "b": "no", "below/it/c": base64.StdEncoding.EncodeToString([]byte("." + text))} {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if content != "no" {
			want = append(want, full)
		}
	}
	slices.Sort(want)
	found, files, err := trace.Find(text, other, dir)
	if err != nil || files != 3 || !slices.Equal(found, want) {
		t.Errorf("found %v in %d files, %v; want %v", found, files, err, want)
	}
	if _, _, err := trace.Find(text, filepath.Join(dir, "missing")); err == nil {
		t.Error("a directory that is not there is searched")
	}
	if n := trace.None(t, "nowhere to be seen", dir, other); n != 3 {
		t.Errorf("%d files were looked at", n)
	}
}
