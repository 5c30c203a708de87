// Package trace searches files, in tests, for what must not be written in
// clear. A program seldom writes a secret as it is: as a []byte in JSON it is
// base64, and what stands before it decides which base64.
package trace

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Forms returns how a text looks in a file that has it without encryption: as it
// is, in hex, and in the alphabets of base64 wherever among other bytes it
// begins.
func Forms(text string) []string {
	plain := hex.EncodeToString([]byte(text))
	forms := []string{text, plain, strings.ToUpper(plain)}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			forms = append(forms, inBase64(encoding, before, text))
		}
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}

// inBase64 returns the characters that are the text's alone when so many bytes
// stand before it.
func inBase64(encoding *base64.Encoding, before int, text string) string {
	const bitsPerByte, bitsPerChar = 8, 6
	encoded := encoding.EncodeToString(append(make([]byte, before), text...))
	first := (before*bitsPerByte + bitsPerChar - 1) / bitsPerChar
	end := (before + len(text)) * bitsPerByte / bitsPerChar
	return encoded[first:end]
}

// In reports whether data have the text in one of its forms.
func In(data []byte, text string) bool {
	return slices.ContainsFunc(Forms(text), func(form string) bool { return bytes.Contains(data, []byte(form)) })
}

// Find returns the files in and below directories that have the text in one of
// its forms, and how many files were looked at. What goes away meanwhile is not
// looked at: programs may be at work there.
func Find(text string, dirs ...string) (found []string, files int, err error) {
	for _, dir := range dirs {
		err = errors.Join(err, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path != dir {
				return nil
			}
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			files++
			if In(data, text) {
				found = append(found, path)
			}
			return err
		}))
	}
	return found, files, err
}

// None fails the test for each file in and below the directories that has the
// text. It searches what a program would have written without encryption as well:
// a search that does not find that proves nothing. It returns how many files it
// looked at.
func None(t testing.TB, text string, dirs ...string) (files int) {
	t.Helper()
	control := filepath.Join(t.TempDir(), "control")
	unsealed, err := json.Marshal(map[string]map[string][]byte{"name": {"key": []byte(text)}})
	if err == nil {
		err = os.WriteFile(control, unsealed, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	found, files, err := Find(text, append([]string{filepath.Dir(control)}, dirs...)...)
	if err != nil {
		t.Error(err)
	}
	if len(found) == 0 || found[0] != control {
		t.Fatalf("the search finds nothing: not even %s", unsealed)
	}
	for _, path := range found[1:] {
		t.Errorf("%s has the content of a Secret", path)
	}
	return files - 1
}
