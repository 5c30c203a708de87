package main

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"fleet.nationtech.io/fleet/pkg/agent/control"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/doctor"
)

// hostile steers a terminal, makes lines and cells of its own, and turns round
// what is written after it.
const hostile = "begin\x1b[2J\x1b]0;x\x07\x7f\u009b31m\u202e\u2066\u200b\xff\nFORGED\tCELL\r\u2028end"

// fill puts the hostile text into every string of a value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(hostile)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		}
	}
}

// expectVisible checks what was printed, which names the text in it.
func expectVisible(t *testing.T, out string) {
	t.Helper()
	if !strings.Contains(out, "begin") || !strings.Contains(out, `\u001b`) {
		t.Fatalf("the text is not in %q", out)
	}
	if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && !unicode.IsGraphic(r) }); i >= 0 {
		t.Errorf("%q has a character that cannot be seen", out[i:min(len(out), i+20)])
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "FORGED") {
			t.Errorf("a text made a line of its own: %q", line)
		}
	}
}

// TestNothingPrintedSteersATerminal fills every string of what the commands
// print, those of later fields included.
func TestNothingPrintedSteersATerminal(t *testing.T) {
	t.Parallel()
	var status control.Status
	fill(reflect.ValueOf(&status).Elem())
	var crash crashes.Crash
	fill(reflect.ValueOf(&crash).Elem())
	var report doctor.Report
	fill(reflect.ValueOf(&report).Elem())
	for _, connected := range []bool{false, true} {
		status.Connected = connected
		for name, print := range map[string]func(*bytes.Buffer) error{
			"status":      func(b *bytes.Buffer) error { return printStatus(b, status, time.Now()) },
			"a crash":     func(b *bytes.Buffer) error { return printCrash(b, crash, time.Now()) },
			"doctor":      func(b *bytes.Buffer) error { return printReport(b, report, "text") },
			"doctor json": func(b *bytes.Buffer) error { return printReport(b, report, "json") },
			"an error":    func(b *bytes.Buffer) error { printError(b, errors.New(hostile)); return nil },
		} {
			t.Run(name, func(t *testing.T) {
				var b bytes.Buffer
				if err := print(&b); err != nil {
					t.Fatal(err)
				}
				expectVisible(t, b.String())
			})
		}
	}
}
