package podman_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

// piece is a part of an output as podman frames it.
func piece(stream byte, text string) string {
	return string([]byte{stream, 0, 0, 0, 0, 0, byte(len(text) >> 8), byte(len(text))}) + text
}

// The two streams of an output come in pieces. What comes cut off or makes no sense ends it
// with an error, after what came before.
func TestOutputComesInPieces(t *testing.T) {
	t.Parallel()
	const at = "2026-11-29T13:56:24.5Z "
	long := strings.Repeat("x", 60<<10)
	for name, tt := range map[string]struct {
		answer, want string
		fails        bool
	}{
		"both":           {piece(1, at+"a\n") + piece(2, at+"b\n") + piece(1, ""), "a\n!b\n", false},
		"cut off":        {piece(1, at+"a\n") + piece(2, "bcd")[:9], "a\n!b", true},
		"in a header":    {piece(1, at+"a\n") + "\x01\x00", "a\n", true},
		"none":           {"", "", false},
		"too long":       {"\x01\x00\x00\x00\xff\xff\xff\xffabc", "abc", true},
		"not podman":     {"hello, world", "", true},
		"long":           {piece(1, at+long), long, false},
		"no time":        {piece(1, "no time\n"), "no time\n", false},
		"nothing but it": {piece(1, at), "", false},
	} {
		client := impostor(t, func(w http.ResponseWriter, r *http.Request) {
			if q := r.URL.Query(); q.Get("tail") != "7" || q.Get("stdout") != "true" || q.Get("stderr") != "true" || q.Get("follow") != "false" || q.Get("since") != "" {
				t.Errorf("asked for %v", q)
			}
			fmt.Fprint(w, tt.answer)
		})
		var got strings.Builder
		err := client.Logs(t.Context(), "a", container.LogOptions{Tail: 7}, func(p container.Piece) error {
			if p.Stderr {
				got.WriteByte('!')
			}
			if len(p.Text) > 32<<10 {
				t.Errorf("%s: a piece has %d bytes", name, len(p.Text))
			}
			got.Write(p.Text)
			return nil
		})
		if (err != nil) != tt.fails || err != nil && !errors.Is(err, container.ErrUnavailable) || got.String() != tt.want {
			t.Errorf("%s: %.100q, %v", name, got.String(), err)
		}
	}
}

func TestWhatIsAskedOfAnOutput(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 29, 13, 56, 24, 500, time.FixedZone("", 3600))
	client := impostor(t, func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("tail") != "all" || q.Get("follow") != "true" || q.Get("since") != "2026-11-29T12:56:24.0000005Z" {
			t.Errorf("asked for %v", q)
		}
	})
	if err := client.Logs(t.Context(), "a", container.LogOptions{Tail: -1, Follow: true, Since: since}, nil); err != nil {
		t.Error(err)
	}
}

// An output that does not end takes neither the memory nor the time of whoever reads it.
func TestAnEndlessOutput(t *testing.T) {
	t.Parallel()
	endless := impostor(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, piece(1, strings.Repeat("x", 10<<10))); err != nil {
				return
			}
		}
	})
	if got, err := container.LastOutput(t.Context(), endless, "a", 1, 64<<10); err != nil || len(got) != 64<<10 {
		t.Errorf("%d bytes of an endless output: %v", len(got), err)
	}
	silent := impostor(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	silent.SetPatience(50 * time.Millisecond)
	nothing := func(container.Piece) error { return nil }
	if err := silent.Logs(t.Context(), "a", container.LogOptions{Tail: 1}, nothing); !errors.Is(err, container.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // longer than the patience
	defer cancel()
	if err := silent.Logs(ctx, "a", container.LogOptions{Follow: true}, nothing); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a container that says nothing: %v", err)
	}
}
