package support_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/support"
)

// unpack returns the files of an archive by name.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	compressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(compressed); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil || header.Mode != 0o600 {
			t.Errorf("%s has mode %o: %v", header.Name, header.Mode, err)
		}
		files[header.Name] = string(content)
	}
}

func text(content string) func(context.Context) ([]byte, error) {
	return func(context.Context) ([]byte, error) { return []byte(content), nil }
}

func TestArchive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		defer close(hung)
		var s support.Scrubber
		s.Add([]byte("hunter22"))
		a := support.Archive{
			Scrub: &s, Now: time.Now(), Notes: []string{"output was left out"},
			Entries: []support.Entry{
				{Name: "a.txt", About: "the first", Read: text("login with hunter22\n")},
				{Name: "hangs.txt", About: "hangs", Within: time.Second, Read: func(context.Context) ([]byte, error) { <-hung; return nil, nil }},
				{Name: "fails.txt", About: "fails", Read: func(context.Context) ([]byte, error) { return nil, errors.New("no hunter22 here") }},
				{Name: "dir/large.txt", About: "large", Read: text(strings.Repeat("x", 5<<10) + "end")},
			},
		}
		a.SetLimits(4<<10, 32<<10)
		var out bytes.Buffer
		began := time.Now()
		missing, err := a.Write(t.Context(), &out)
		if err != nil || !slices.Equal(missing, []string{"hangs.txt: it did not come in time", "fails.txt: no [redacted] here"}) || time.Since(began) > 2*time.Second {
			t.Errorf("missing %q: %v", missing, err)
		}
		files := unpack(t, out.Bytes())
		readme := files["fleet-support/README.txt"]
		for _, want := range []string{"a.txt                    the first\n", "MISSING: it did not come in time\n", "MISSING: no [redacted] here\n", "the last 4096 of 5123 bytes\n", "output was left out\n"} {
			if !strings.Contains(readme, want) {
				t.Errorf("README lacks %q: %s", want, readme)
			}
		}
		if large := files["fleet-support/dir/large.txt"]; len(large) != 4<<10 || !strings.HasSuffix(large, "end") {
			t.Errorf("%d bytes of the large one", len(large))
		}
		if files["fleet-support/a.txt"] != "login with [redacted]\n" || len(files) != 3 {
			t.Errorf("%d files, %q", len(files), files["fleet-support/a.txt"])
		}
		if _, err := a.Write(t.Context(), full{}); err == nil || !strings.Contains(err.Error(), "no space") {
			t.Errorf("on a full disk: %v", err)
		}
	})
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestAllOfItIsBounded(t *testing.T) {
	t.Parallel()
	a := support.Archive{Scrub: new(support.Scrubber)}
	a.SetLimits(40<<10, 320<<10)
	for range 20 {
		a.Entries = append(a.Entries, support.Entry{Name: "large.txt", Read: text(strings.Repeat("x", 40<<10))})
	}
	var out bytes.Buffer
	if _, err := a.Write(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	compressed, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := io.Copy(io.Discard, compressed); err != nil || size > 350<<10 || size < 320<<10 {
		t.Errorf("%d bytes: %v", size, err)
	}
}

func TestScrub(t *testing.T) {
	t.Parallel()
	var s support.Scrubber
	s.Add([]byte("open\"sesame\n"))
	s.Add([]byte("1"))
	s.Add([]byte("first-line\nsecond-line\n"))
	s.Add([]byte("short-of-it"))
	s.Add([]byte("short-of-it, and all the rest"))
	s.Add([]byte("p@ss/w rd"))
	for in, want := range map[string]string{
		`say open"sesame`:      "say [redacted]",
		`{"a":"open\"sesame"}`: `{"a":"[redacted]"}`,
		"b3BlbiJzZXNhbWU=":     "[redacted]",
		"the second-line 1":    "the [redacted] 1",
		"-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----\nrest":                    "[redacted]\nrest",
		"-----BEGIN EC PRIVATE KEY-----\\nMIG is cut off":                                      "[redacted]",
		"enroll with FLT1.abc.def-g_h.ijk now":                                                 "enroll with FLT1.[redacted] now",
		"HTTPS_PROXY=http://user:pass@proxy:3128/":                                             "HTTPS_PROXY=http://[redacted]proxy:3128/",
		"password: hunter2, user: x":                                                           "password: [redacted], user: x",
		`{"Password":"hunter2","user":"x"}`:                                                    `{"Password":"[redacted]","user":"x"}`,
		`{"error":"sent \"token\": \"a b\" to it"}`:                                            `{"error":"sent \"token\": \"[redacted]\" to it"}`,
		`passphrase: "correct horse, battery \" staple" # x`:                                   `passphrase: "[redacted]" # x`,
		`passphrase: 'correct horse, battery' # x`:                                             `passphrase: '[redacted]' # x`,
		"secret=abc,def;ghi}jkl m":                                                             "secret=[redacted] m",
		"secret=first-line m":                                                                  "secret=[redacted] m",
		`short-of-it, and all the rest, is it`:                                                 "[redacted], is it",
		"https://h/?q=p%40ss%2Fw+rd&p=p@ss%2Fw%20rd":                                           "https://h/?q=[redacted]&p=[redacted]",
		`msg="api_key=abc" x`:                                                                  `msg="api_key=[redacted]" x`,
		"Authorization: Bearer abcdefgh":                                                       "Authorization: Bearer [redacted]",
		`{"error":"exited with code 3, last output: it is \"so\" here","b":1}`:                 `{"error":"exited with code 3, last output: [redacted]","b":1}`,
		"reason: exited, last output: all of this\nnext":                                       "reason: exited, last output: [redacted]\nnext",
		"its readiness probe failed: command /check exited with code 1: hello\nnext":           "its readiness probe failed: command /check exited with code 1: [redacted]\nnext",
		`{"why":"/ of port 80: malformed HTTP response \"hello\"","b":1}`:                      `{"why":"/ of port 80: malformed HTTP [redacted]","b":1}`,
		"exited with code 137: there was no memory left for it, by its limit or on the device": "exited with code 137: there was no memory left for it, by its limit or on the device",
		"nothing": "nothing",
	} {
		if got := string(s.Scrub([]byte(in))); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	s.KeepOutput = true
	if got := string(s.Scrub([]byte("last output: hello"))); got != "last output: hello" {
		t.Errorf("output is kept: %q", got)
	}
}
