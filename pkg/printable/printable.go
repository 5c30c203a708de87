// Package printable keeps text of others from steering a terminal.
//
// A device, a container, podman or a gateway chooses words that operators read:
// errors, names, versions. A terminal obeys control characters in them, and
// shows text that is written from right to left in another order. Both programs
// write to their standard streams through NewWriter, what fills one line or one
// cell of a table goes through Line, and the server keeps texts of devices as
// Line gives them.
//
// It imports the standard library only, and any package may import it.
package printable

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Line returns a text in which every character can be seen, in one line: line
// breaks and tabs become spaces, and what is no letter, mark, number, symbol or
// space is written as \u001b. Bytes that are no UTF-8 become U+FFFD.
func Line(text string) string {
	return escape(text, func(r rune) (string, bool) { return " ", unicode.IsSpace(r) && !unicode.IsGraphic(r) })
}

// Squeeze is Line for a text whose layout means nothing: one space stands for each run of
// white space, and none at the ends.
func Squeeze(text string) string { return Line(strings.Join(strings.Fields(text), " ")) }

// Lines is Line for a text of several lines: line feeds and tabs stay.
func Lines(text string) string {
	return escape(text, func(r rune) (string, bool) { return string(r), r == '\n' || r == '\t' })
}

// escape asks special about every character first.
func escape(text string, special func(rune) (string, bool)) string {
	if plain(text) {
		return text
	}
	var b strings.Builder
	for _, r := range text { // U+FFFD for what is no UTF-8
		if with, ok := special(r); ok {
			b.WriteString(with)
		} else if unicode.IsGraphic(r) {
			b.WriteRune(r)
		} else {
			writeEscaped(&b, r)
		}
	}
	return b.String()
}

// plain reports whether a text is ASCII that can be seen, as most is.
func plain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// writeEscaped writes a character as in JSON, so that a document stays the same.
func writeEscaped(b *strings.Builder, r rune) {
	if first, second := utf16.EncodeRune(r); first != unicode.ReplacementChar {
		fmt.Fprintf(b, `\u%04x\u%04x`, first, second)
		return
	}
	fmt.Fprintf(b, `\u%04x`, r)
}

// Fprintf is fmt.Fprintf with each argument as Line gives it. The format may
// have line breaks and tabs.
func Fprintf(w io.Writer, format string, args ...any) {
	lines := make([]any, len(args))
	for i, a := range args {
		lines[i] = line{a}
	}
	fmt.Fprintf(w, format, lines...)
}

// line formats a value as any verb asks for, and shows the result in one line.
type line struct{ value any }

// Format implements fmt.Formatter.
func (l line) Format(state fmt.State, verb rune) {
	_, _ = io.WriteString(state, Line(fmt.Sprintf(fmt.FormatString(state, verb), l.value))) // to memory
}

// Writer passes on what is written to it as Lines gives it.
type Writer struct {
	to io.Writer

	mu sync.Mutex // guards what follows
	// rest is the beginning of a character whose end is yet to be written.
	rest []byte
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{to: w} }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := append(w.rest, p...)
	whole := len(text) - unfinished(text)
	w.rest = append([]byte(nil), text[whole:]...)
	if whole == 0 {
		return len(p), nil
	}
	if _, err := io.WriteString(w.to, Lines(string(text[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Unwrap returns the writer that gets the text.
func (w *Writer) Unwrap() io.Writer { return w.to }

// unfinished is how many bytes at the end of a text may begin a character.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if last := text[len(text)-n:]; utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

// Exact returns what a Writer writes to unless that is a terminal: for output
// that programs read, and that must not be changed for them. Other writers are
// returned as they are.
func Exact(w io.Writer) io.Writer {
	ours, ok := w.(*Writer)
	if !ok || isTerminal(ours.to) {
		return w
	}
	return ours.to
}

// isTerminal takes every device for a terminal, which is safe.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err != nil || info.Mode()&os.ModeCharDevice != 0
}
