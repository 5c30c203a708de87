package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/test/terminal"
	"fleet.nationtech.io/fleet/test/wait"
)

// asked keeps what is written to it, and tells when that begins.
type asked struct {
	prompted chan struct{}
	text     bytes.Buffer
}

func (a *asked) Write(p []byte) (int, error) {
	if a.text.Len() == 0 {
		close(a.prompted)
	}
	return a.text.Write(p)
}

// echoes reports whether a terminal shows what is typed.
func echoes(t *testing.T, terminal *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

func TestEnrollAsksForTheTokenOnATerminal(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	person, program := terminal.Open(t)
	if _, err := io.WriteString(person, g.token+"\n"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	prompt := &asked{prompted: make(chan struct{})}
	if err := run(t.Context(), []string{"--config", h.config, "enroll", "--server", g.url, "--name", "pi-1"}, program, &out, prompt); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(prompt.text.String(), "Enrollment token") || !strings.Contains(out.String(), "pi-1 is enrolled") {
		t.Errorf("asked %q, said %q", prompt.text.String(), out.String())
	}
	if !echoes(t, program) {
		t.Error("the terminal shows nothing any more")
	}
}

func TestEnrollCalledOffAtTheTerminal(t *testing.T) {
	t.Parallel()
	h, g := newHost(t), newGateway(t)
	person, program := terminal.Open(t)
	ctx, cancel := context.WithCancel(t.Context())
	prompt := &asked{prompted: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--config", h.config, "enroll", "--server", g.url}, program, io.Discard, prompt)
	}()
	<-prompt.prompted
	wait.For(t, "hiding what is typed", time.Minute, time.Millisecond, func() error {
		if echoes(t, program) {
			return errors.New("the terminal shows it")
		}
		return nil
	})
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !echoes(t, program) {
		t.Error("the terminal shows nothing any more")
	}
	// The program would end here; what still reads gets its line.
	if _, err := io.WriteString(person, "\n"); err != nil {
		t.Fatal(err)
	}
}

// onTerminal returns what a program shows on a terminal.
func onTerminal(t *testing.T, do func(program io.ReadWriter) error) string {
	t.Helper()
	person, program := terminal.Open(t)
	var seen bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&seen, person) // until nobody has the other end
	}()
	if err := do(program); err != nil {
		t.Error(err)
	}
	if err := program.Close(); err != nil {
		t.Error(err)
	}
	<-read
	return seen.String()
}
