package podman_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/podman"
)

// sessions answers as podman does to whoever runs a command: it gives back what it reads
// as an error, between other output.
type sessions struct {
	t *testing.T
	// answers are those to questions how the session ended; the last one stays.
	answers []string

	mu      sync.Mutex // guards what follows
	asked   []string   // of the create and the start
	resizes []string
	asks    int
}

func (s *sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	switch path := r.URL.Path; {
	case strings.HasSuffix(path, "/containers/c/exec"):
		s.asked = append(s.asked, string(body))
		fmt.Fprint(w, `{"Id":"5e"}`)
	case strings.HasSuffix(path, "/exec/5e/start"):
		s.asked = append(s.asked, string(body))
		s.mu.Unlock()
		s.attach(w, r, strings.Contains(string(body), `"Tty":true`))
		s.mu.Lock()
	case strings.HasSuffix(path, "/exec/5e/resize"):
		s.resizes = append(s.resizes, r.URL.Query().Get("h")+"x"+r.URL.Query().Get("w"))
	case strings.HasSuffix(path, "/exec/5e/json"):
		answer := s.answers[min(s.asks, len(s.answers)-1)]
		if answer == "" {
			http.Error(w, `{"message":"no exec session with ID 5e found"}`, http.StatusNotFound)
		}
		fmt.Fprint(w, answer)
		s.asks++
	}
}

func (s *sessions) attach(w http.ResponseWriter, r *http.Request, terminal bool) {
	if r.Header.Get("Upgrade") != "tcp" {
		s.t.Error("the connection is to be upgraded")
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.t.Error(err)
		return
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	frame := func(stream byte, text string) string {
		if terminal {
			return text
		}
		return piece(stream, text)
	}
	fmt.Fprint(conn, frame(1, "2026-11-29T13:56:24Z begins\n"))
	read, _ := io.ReadAll(buffered)
	fmt.Fprint(conn, frame(2, string(read)), frame(1, "ends\n"))
}

func TestAttach(t *testing.T) {
	t.Parallel()
	s := &sessions{t: t, answers: []string{`{"Running":true}`, `{"Running":false,"ExitCode":7}`}}
	c := impostor(t, s.ServeHTTP)
	var out, errs bytes.Buffer
	code, err := c.Attach(t.Context(), "c", container.Attachment{Command: []string{"cat", "-"}, In: strings.NewReader("input"), Out: &out, Err: &errs})
	if err != nil || code != 7 || out.String() != "2026-11-29T13:56:24Z begins\nends\n" || errs.String() != "input" {
		t.Errorf("code %d, %q and %q: %v", code, out.String(), errs.String(), err)
	}
	var create struct {
		AttachStdin, AttachStdout, AttachStderr, Tty bool
		Cmd                                          []string
	}
	if err := json.Unmarshal([]byte(s.asked[0]), &create); err != nil || !create.AttachStdin || !create.AttachStdout || !create.AttachStderr || create.Tty || len(create.Cmd) != 2 {
		t.Errorf("asked for %s: %v", s.asked[0], err)
	}
	if len(s.resizes) > 0 {
		t.Errorf("sizes without a terminal: %v", s.resizes)
	}
}

func TestAttachWithATerminal(t *testing.T) {
	t.Parallel()
	s := &sessions{t: t, answers: []string{`{"ExitCode":0}`}}
	c := impostor(t, s.ServeHTTP)
	sizes := make(chan container.Size)
	input, typed := io.Pipe()
	go func() {
		sizes <- container.Size{Rows: 3, Columns: 4}
		sizes <- container.Size{Rows: 5, Columns: 6} // so that the one before was passed on
		typed.Close()
	}()
	var out bytes.Buffer
	code, err := c.Attach(t.Context(), "c", container.Attachment{
		Command: []string{"sh"}, Terminal: true, Size: container.Size{Rows: 1, Columns: 2}, Sizes: sizes, In: input, Out: &out,
	})
	if err != nil || code != 0 || out.String() != "2026-11-29T13:56:24Z begins\nends\n" {
		t.Errorf("code %d, %q: %v", code, out.String(), err)
	}
	if !strings.Contains(s.asked[1], `"h":1,"w":2`) || len(s.resizes) < 2 || s.resizes[0] != "1x2" || s.resizes[1] != "3x4" {
		t.Errorf("asked for %s, sizes %v", s.asked[1], s.resizes)
	}
}

func TestAttachToAnotherKind(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		want   error
	}{
		"no upgrade": {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"Id":"5e"}`) }, container.ErrUnavailable},
		"gone": {func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, `{"message":"no such container"}`, http.StatusNotFound)
		}, container.ErrNotFound},
		"forgotten":  {(&sessions{t: t, answers: []string{""}}).ServeHTTP, podman.ErrNoCode},
		"never ends": {(&sessions{t: t, answers: []string{`{"Running":true}`}}).ServeHTTP, podman.ErrNoCode},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := impostor(t, tt.answer)
			c.SetExitPatience(200 * time.Millisecond)
			if _, err := c.Attach(t.Context(), "c", container.Attachment{Command: []string{"a"}, Out: io.Discard, Err: io.Discard}); !errors.Is(err, tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	full := errors.New("disk full")
	c := impostor(t, (&sessions{t: t, answers: []string{`{}`}}).ServeHTTP)
	if _, err := c.Attach(t.Context(), "c", container.Attachment{Command: []string{"a"}, Out: failing{full}, Err: io.Discard}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
