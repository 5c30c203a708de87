package support

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
)

// redacted stands where a secret was.
const redacted = "[redacted]"

// minSecret is the length in bytes from which on a value is taken for a secret: shorter ones
// stand in every text.
const minSecret = 6

// Scrubber takes secrets out of texts: the values that it is told, and whatever has the
// form of a key, a token or a password.
type Scrubber struct {
	// KeepOutput leaves in what workloads wrote, as far as reports quote it.
	KeepOutput bool

	values [][]byte
}

// Add makes the scrubber know a secret.
func (s *Scrubber) Add(secret []byte) {
	secret = bytes.TrimSpace(secret)
	if len(secret) < minSecret {
		return
	}
	s.values = append(s.values, secret)
	if escaped, err := json.Marshal(string(secret)); err == nil {
		s.values = append(s.values, bytes.Trim(escaped, `"`))
	}
	s.values = append(s.values, []byte(url.QueryEscape(string(secret))), []byte(url.PathEscape(string(secret))))
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		s.values = append(s.values, []byte(encoding.EncodeToString(secret)))
	}
	for line := range bytes.Lines(secret) { // of a key in PEM, or of a file
		if line = bytes.TrimSpace(line); len(line) >= minSecret && len(line) < len(secret) {
			s.values = append(s.values, line)
		}
	}
	// One may be the beginning of another, whose end must not be left.
	slices.SortStableFunc(s.values, func(a, b []byte) int { return len(b) - len(a) })
	s.values = slices.CompactFunc(s.values, bytes.Equal)
}

// form is what is a secret wherever it stands. The groups are kept, four at most. To search for it
// takes seconds for some MiB, so one of the hints, in lower case, has to be there first.
type form struct {
	*regexp.Regexp

	hints []string
}

var forms = []form{
	{regexp.MustCompile(`()(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`), []string{"private key-----"}},
	{regexp.MustCompile(`(FLT1\.)[A-Za-z0-9._-]+`), []string{"flt1."}},
	{regexp.MustCompile(`(://)[^/@\s"']+@`), []string{"://"}},
	{
		regexp.MustCompile(`(?i)((?:password|passwd|passphrase|secret|token|credential|api[-_]?key|private[-_]?key)s?\\?["']?\s*[:=]\s*)` +
			// In quotation marks, which are those of a text within a text or not, or up to a space.
			`(?:(\\")(?:[^"\\\n]|\\[^"])+|(")(?:[^"\\\n]|\\.)+|(')[^'\n]+|\[redacted\]|[^\s"'\\](?:[^\s"',;&}\]\\]|[,;&}\]][^\s"'\\])*)`),
		[]string{"passw", "passphrase", "secret", "token", "credential", "key"},
	},
	{regexp.MustCompile(`(?i)((?:bearer|basic)\s+)[A-Za-z0-9+/._~=-]{6,}`), []string{"bearer", "basic"}},
}

// quoted is what reports quote of what a workload says, to the end of the text: of its
// output, and of what it answers to probes.
var quoted = form{
	regexp.MustCompile(`(last output: |command [^"\n]{1,200}? exited with code [0-9]+: |malformed HTTP )(?:\\.|[^"\\\n])+`),
	[]string{"last output: ", "exited with code ", "malformed http "},
}

// redact takes the form out of a text, whose lower case has the hints.
func (f form) redact(text, lower []byte) []byte {
	if !slices.ContainsFunc(f.hints, func(hint string) bool { return bytes.Contains(lower, []byte(hint)) }) {
		return text
	}
	return f.ReplaceAll(text, []byte("${1}${2}${3}${4}"+redacted))
}

// Scrub returns a text without secrets.
func (s *Scrubber) Scrub(text []byte) []byte {
	for _, value := range s.values {
		text = bytes.ReplaceAll(text, value, []byte(redacted))
	}
	lower := bytes.ToLower(text)
	for _, form := range forms {
		text = form.redact(text, lower)
	}
	if !s.KeepOutput {
		text = quoted.redact(text, lower)
	}
	return text
}
