package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"
)

// TestAnErrorSteersNoTerminal: devices and containers choose words in errors.
func TestAnErrorSteersNoTerminal(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	printError(&b, errors.New("begin\x1b[2J\u202e\u009b\xff\nFORGED\r"))
	line := strings.TrimSuffix(b.String(), "\n")
	if !strings.HasPrefix(line, "fleet-server: begin") || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsGraphic(r) }) {
		t.Errorf("%q", line)
	}
}
