// Package terminal gives tests a terminal, with a person at one end and the program
// under test at the other, and a server that wants to steer one.
package terminal

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"unicode"

	"fleet.nationtech.io/fleet/pkg/pty"
)

// Open returns the two ends of a new terminal, until the end of the test.
func Open(t testing.TB) (person, program *os.File) {
	t.Helper()
	person, program, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = person.Close(), program.Close() })
	return person, program
}

// Hostile returns the URL of an API, until the end of the test, that refuses everything in words
// that steer a terminal.
func Hostile(t testing.TB) (url string) {
	t.Helper()
	const trap = `\u001b[2J\u009b`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Add("Warning", `299 - "warned`+"\u009b"+`2J"`)
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"`+trap+`","message":"refused`+trap+`","code":418}`)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// IsSteered reports whether a text of lines holds what steers a terminal.
func IsSteered(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) && r != '\n' && r != '\t' })
}
