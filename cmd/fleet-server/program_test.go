package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Only what shows the program as it is on disk may be given back: anything else is lost.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	mapping := func(from, to int, mode, file string, anonymous int) string {
		return fmt.Sprintf("%08x-%08x %s 00001000 fd:01 4711 %20s %s\nSize: 4 kB\nRss: 4 kB\nAnonymous: %d kB\nVmFlags: rd mr mw me sd\n", from, to, mode, "", file, anonymous)
	}
	const program = "/usr/bin/fleet-server"
	parts, err := unchanged(strings.NewReader(strings.Join([]string{
		mapping(0x400000, 0x500000, "r-xp", program, 0),
		mapping(0x500000, 0x600000, "r--p", program, 0),
		mapping(0x600000, 0x601000, "r--p", program, 4), // relocated
		mapping(0x700000, 0x701000, "rw-p", program, 0),
		mapping(0x800000, 0x801000, "r--p", "/lib/libc.so.6", 0),
		mapping(0x900000, 0x901000, "r--p", program+"-plugin", 0),
		mapping(0xa00000, 0xa01000, "r--p", "", 0),
	}, "")), program)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]part{{0x400000, 0x500000}, {0x500000, 0x600000}}, parts, cmp.AllowUnexported(part{})); diff != "" {
		t.Errorf("may be given back (-want +got):\n%s", diff)
	}
}

// A program whose pages were released goes on.
func TestReleaseProgram(t *testing.T) {
	t.Parallel()
	if err := releaseProgram(); err != nil {
		t.Error(err)
	}
}
