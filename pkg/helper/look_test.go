package helper_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/helper"
	"fleet.nationtech.io/fleet/pkg/helper/trail"
)

func TestLook(t *testing.T) {
	t.Parallel()
	client := serve(t, &helper.Server{})
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{filepath.Join(base, "none")}
	for i := range 200 { // more than one question
		path := filepath.Join(base, fmt.Sprintf("%03d", i))
		if err := os.Mkdir(path, 0o750); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path, path)
	}
	seen, err := client.Look(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		real, err := trail.Follow(seen, path, nil)
		if gone := path == paths[0]; gone != errors.Is(err, os.ErrNotExist) || !gone && real != path {
			t.Errorf("%s: %q, %v", path, real, err)
		}
	}
	if e := seen.Lstat(paths[1]); e.UID != uint32(os.Getuid()) || e.Perm() != 0o750 || !e.IsDir() {
		t.Errorf("got %+v", e)
	}
}

// TestLookAtTooMuch: what does not fit into an answer is said, and the next question is
// answered.
func TestLookAtTooMuch(t *testing.T) {
	t.Parallel()
	client := serve(t, &helper.Server{})
	deep := t.TempDir() + strings.Repeat("/x", 500)
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Look(t.Context(), []string{deep}); !errors.Is(err, helper.ErrUnavailable) || !strings.Contains(err.Error(), "too much to tell") {
		t.Errorf("got %d entries, %v", len(got), err)
	}
	if _, err := client.Look(t.Context(), []string{"/"}); err != nil {
		t.Error(err)
	}
}

// TestLookBelievesNothing: whoever takes the helper's place gets no more than the time of
// one question.
func TestLookBelievesNothing(t *testing.T) {
	t.Parallel()
	for name, message := range map[string]string{
		"nothing":      "",
		"garbage":      "garbage",
		"too much":     `{"outcome":"seen","trail":{"/":{"fault":"` + strings.Repeat("x", 70<<10) + `"}}}`,
		"another kind": `{"outcome":"connected"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := answering(t, message).Look(t.Context(), []string{"/srv"}); !errors.Is(err, helper.ErrUnavailable) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	// What is well-formed is taken, and leads nowhere else in silence.
	seen, err := answering(t, `{"outcome":"seen","trail":{"/":{"mode":16877},"/srv":{"fault":"a\u001b[31m\nb"}}}`).Look(t.Context(), []string{"/srv"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trail.Follow(seen, "/srv", nil); err == nil || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("got %v", err)
	}
}

func TestLookWaitsNoLongerThanItsCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	client := helper.Client{Socket: listen(t).Addr().String()}
	if _, err := client.Look(ctx, []string{"/"}); err == nil {
		t.Error("a helper that says nothing was believed")
	}
}

// answering is a client of somebody in the helper's place who says one thing.
func answering(t *testing.T, message string) *helper.Client {
	t.Helper()
	listener := listen(t)
	go func() {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 64<<10))
		if message != "" {
			_ = conn.SetWriteBuffer(1 << 20)
			_, _ = conn.Write([]byte(message))
		}
	}()
	return &helper.Client{Socket: listener.Addr().String()}
}
