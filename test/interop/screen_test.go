package interop_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/test/terminal"
)

// screen is what a program that draws on a terminal shows to a person. It knows what
// terminfo's xterm-256color uses to draw: moves of the cursor, erasure, and text.
type screen struct {
	keys *os.File

	mu       sync.Mutex
	cells    [][]rune
	row, col int
}

// rows and columns are wide enough for any line that the tests look for.
const rows, columns = 50, 200

// show runs a program that draws, until the end of the test.
func show(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	person, program := terminal.Open(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &screen{keys: person, cells: make([][]rune, rows)}
	for row := range s.cells {
		s.cells[row] = make([]rune, columns)
	}
	drawn := make(chan struct{})
	go func() {
		defer close(drawn)
		s.draw(bufio.NewReader(person))
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // ended already: fine
		_ = cmd.Wait()         // killed
		_ = person.Close()     // ends draw
		<-drawn
	})
	return s
}

// press types keys.
func (s *screen) press(t *testing.T, keys string) {
	t.Helper()
	if _, err := io.WriteString(s.keys, keys); err != nil {
		t.Fatal(err)
	}
}

// String is the screen's text, line by line.
func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var text strings.Builder
	for _, row := range s.cells {
		line := strings.Map(func(cell rune) rune {
			if cell == 0 {
				return ' '
			}
			return cell
		}, string(row))
		text.WriteString(strings.TrimRight(line, " "))
		text.WriteByte('\n')
	}
	return text.String()
}

// shows returns an error with the screen unless a line has the words beside each other.
func (s *screen) shows(words string) error {
	text := s.String()
	for line := range strings.Lines(text) {
		if strings.Contains(strings.Join(strings.Fields(line), " "), words) {
			return nil
		}
	}
	return fmt.Errorf("no line has %q:\n%s", words, text)
}

func (s *screen) draw(r *bufio.Reader) {
	for {
		c, _, err := r.ReadRune()
		if err != nil {
			return // the terminal is closed
		}
		if c == '\x1b' {
			if !s.escape(r) {
				return
			}
			continue
		}
		s.mu.Lock()
		switch {
		case c == '\r':
			s.col = 0
		case c == '\n':
			s.row = min(s.row+1, rows-1)
		case c == '\b':
			s.col = max(s.col-1, 0)
		case c >= ' ' && s.col < columns:
			s.cells[s.row][s.col] = c
			s.col++
		}
		s.mu.Unlock()
	}
}

// escape takes one sequence, and reports false at the end of input.
func (s *screen) escape(r *bufio.Reader) bool {
	kind, err := r.ReadByte()
	if err != nil {
		return false
	}
	switch kind {
	case '(', ')': // a character set
		_, err = r.ReadByte()
	case ']', 'P': // a title, a question: they end with BEL or ESC \
		for c := byte(0); err == nil && c != '\a' && c != '\\'; {
			c, err = r.ReadByte()
		}
	case '[':
		var arguments []byte
		for {
			var c byte
			if c, err = r.ReadByte(); err != nil || c >= '@' && c <= '~' {
				s.control(c, string(arguments))
				break
			}
			arguments = append(arguments, c)
		}
	}
	return err == nil
}

// control carries out a control sequence; those that only colour are none of ours.
func (s *screen) control(final byte, arguments string) {
	first, second, _ := strings.Cut(arguments, ";")
	number := func(text string, fallback int) int {
		if n, err := strconv.Atoi(text); err == nil {
			return n
		}
		return fallback
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clearRow := func(row, from int) { clear(s.cells[row][min(from, columns):]) }
	switch final {
	case 'H':
		s.row = min(max(number(first, 1)-1, 0), rows-1)
		s.col = min(max(number(second, 1)-1, 0), columns-1)
	case 'C':
		s.col = min(s.col+number(first, 1), columns-1)
	case 'D':
		s.col = max(s.col-number(first, 1), 0)
	case 'J':
		from := s.col
		if first == "2" {
			s.row, from = 0, 0
		}
		clearRow(s.row, from)
		for row := s.row + 1; row < rows; row++ {
			clearRow(row, 0)
		}
	case 'K':
		clearRow(s.row, s.col)
	}
}
