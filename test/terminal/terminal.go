// Package terminal gives tests a terminal, with a person at one end and the program
// under test at the other.
package terminal

import (
	"os"
	"testing"

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
