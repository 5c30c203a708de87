package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/test/terminal"
	"fleet.nationtech.io/fleet/test/wait"
)

// runs makes commands in containers do something with what they read and where they
// write, and end with a code.
func (e *engine) runs(t *testing.T, code int, do func(in io.Reader, out io.Writer)) (asked *commands) {
	asked = &commands{}
	prefix := "/v5.6.2/libpod/"
	e.mux.HandleFunc("POST "+prefix+"containers/{id}/exec", func(w http.ResponseWriter, r *http.Request) {
		asked.mu.Lock()
		defer asked.mu.Unlock()
		if err := json.NewDecoder(r.Body).Decode(&asked.create); err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, `{"Id":"5e"}`)
	})
	e.mux.HandleFunc("POST "+prefix+"exec/5e/start", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		do(buffered, conn)
	})
	e.mux.HandleFunc("POST "+prefix+"exec/5e/resize", func(_ http.ResponseWriter, r *http.Request) {
		asked.mu.Lock()
		defer asked.mu.Unlock()
		asked.size = r.URL.Query().Get("h") + "x" + r.URL.Query().Get("w")
	})
	e.mux.HandleFunc("GET "+prefix+"exec/5e/json", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"Running":false,"ExitCode":%d}`, code)
	})
	return asked
}

// commands is what was asked about the last command.
type commands struct {
	mu     sync.Mutex // guards what follows
	create struct {
		AttachStdin, Tty bool
		Cmd              []string
	}
	size string
}

// framed is a text as podman frames it without a terminal.
func framed(stream byte, text string) string {
	return string([]byte{stream, 0, 0, 0, 0, 0, byte(len(text) >> 8), byte(len(text))}) + text
}

func TestExec(t *testing.T) {
	t.Parallel()
	h, e := newHost(t), newEngine(t)
	h.use(e)
	asked := e.runs(t, 7, func(in io.Reader, out io.Writer) {
		read, _ := io.ReadAll(in)
		fmt.Fprint(out, framed(1, "\x1b[1mread "+string(read)), framed(2, "bad\n"))
	})
	var out, errs bytes.Buffer
	err := run(t.Context(), []string{"--config", h.config, "exec", "front", "-i", "--", "sh", "-c", "exit 7"}, strings.NewReader("input"), &out, &errs)
	if status, ok := errors.AsType[exitStatus](err); !ok || status != 7 || out.String() != "\x1b[1mread input" || errs.String() != "bad\n" {
		t.Errorf("%v: %q and %q", err, out.String(), errs.String())
	}
	if !asked.create.AttachStdin || asked.create.Tty || strings.Join(asked.create.Cmd, "|") != "sh|-c|exit 7" {
		t.Errorf("asked for %+v", asked.create)
	}
	out.Reset()
	err = run(t.Context(), []string{"--config", h.config, "exec", "front", "--", "cat"}, strings.NewReader("input"), &out, &errs)
	if asked.create.AttachStdin || out.String() != "\x1b[1mread " {
		t.Errorf("without -i: %q, %v", out.String(), err)
	}
	for args, want := range map[string]string{
		"exec front ls":         "name one service, and the command after --: write fleet-agent exec SERVICE [-i] [-t] -- COMMAND [ARGUMENT...] [flags]",
		"exec -- front ls":      "name one service, and the command after --: write fleet-agent exec SERVICE [-i] [-t] -- COMMAND [ARGUMENT...] [flags]",
		"exec front --":         "name one service, and the command after --: write fleet-agent exec SERVICE [-i] [-t] -- COMMAND [ARGUMENT...] [flags]",
		"exec none -- ls":       `"none": no such service on this device; it has lab/web/db, shop/web/db, shop/web/front`,
		"exec lab/web/db -- ls": "service lab/web/db does not run (exited): fleet-agent logs lab/web/db shows what it wrote",
		"exec front -t -- ls":   "-t needs a terminal at the standard input and output: leave it out",
		"exec front -x -- ls":   "unknown shorthand flag: 'x' in -x: see fleet-agent exec --help",
	} {
		_, err := h.run("", strings.Fields(args)...)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", args, err)
		}
		if _, usage := errors.AsType[failure](err); err != nil && usage && exitCode(err) != 125 {
			t.Errorf("%s: exit status %d", args, exitCode(err))
		}
	}
}

// Without -t nothing that a command writes steers the terminal.
func TestExecWithoutTerminalOnOne(t *testing.T) {
	t.Parallel()
	h, e := newHost(t), newEngine(t)
	h.use(e)
	e.runs(t, 0, func(_ io.Reader, out io.Writer) { fmt.Fprint(out, framed(1, "begin"+hostile+"\n")) })
	seen := onTerminal(t, func(program io.ReadWriter) error {
		return run(t.Context(), []string{"--config", h.config, "exec", "front", "--", "ls"}, strings.NewReader(""), program, program)
	})
	if strings.ContainsAny(seen, "\x1b\a") || !strings.Contains(seen, `\u001b]0;x`) {
		t.Errorf("got %q", seen)
	}
}

// With -i and -t keys and output go through as they are, and the terminal is what it was
// in the end.
func TestExecOnATerminal(t *testing.T) {
	t.Parallel()
	h, e := newHost(t), newEngine(t)
	h.use(e)
	asked := e.runs(t, 3, func(in io.Reader, out io.Writer) {
		fmt.Fprint(out, "\x1b[1m# ")
		key := make([]byte, 2)
		_, _ = io.ReadFull(in, key)
		fmt.Fprintf(out, "%q\r\n", key)
	})
	person, program := terminal.Open(t)
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- run(t.Context(), []string{"--config", h.config, "exec", "-it", "front", "--", "sh"}, program, program, io.Discard)
	}()
	var seen strings.Builder
	read := func(want string) {
		t.Helper()
		buffer := make([]byte, 100)
		for !strings.HasSuffix(seen.String(), want) {
			n, err := person.Read(buffer)
			if err != nil {
				t.Fatalf("saw %q: %v", seen.String(), err)
			}
			seen.Write(buffer[:n])
		}
	}
	if err := person.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	read("\x1b[1m# ")
	if echoes(t, program) {
		t.Error("the terminal still shows what is typed")
	}
	wait.For(t, "the size", time.Minute, time.Millisecond, func() error {
		asked.mu.Lock()
		defer asked.mu.Unlock()
		if asked.size != "33x77" {
			return fmt.Errorf("it is %q", asked.size)
		}
		return nil
	})
	if _, err := io.WriteString(person, "\x03\r"); err != nil { // Ctrl-C is the command's
		t.Fatal(err)
	}
	read(`"\x03\r"` + "\r\n")
	err := <-ended
	if status, ok := errors.AsType[exitStatus](err); !ok || status != 3 {
		t.Errorf("got %v", err)
	}
	if !echoes(t, program) {
		t.Error("the terminal shows nothing any more")
	}
	if _, err := io.WriteString(person, "\n"); err != nil { // the program would end here; what still reads gets its line
		t.Fatal(err)
	}
}

func TestExecInterrupted(t *testing.T) {
	t.Parallel()
	h, e := newHost(t), newEngine(t)
	h.use(e)
	begun := make(chan struct{})
	e.runs(t, 0, func(in io.Reader, out io.Writer) {
		close(begun)
		_, _ = io.Copy(io.Discard, in) // the end of no input
		_, _ = out.(io.Reader).Read(make([]byte, 1))
		for {
			if _, err := io.WriteString(out, framed(1, "x")); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--config", h.config, "exec", "front", "--", "sleep"}, strings.NewReader(""), io.Discard, io.Discard)
	}()
	<-begun
	cancel()
	if err := <-ended; !errors.Is(err, exitInterrupted) {
		t.Errorf("got %v", err)
	}
}
