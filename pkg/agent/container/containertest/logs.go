package containertest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// logs reads an output whole, and that of each stream. last is when the last of it was
// written.
func (s Subject) logs(t *testing.T, id string, o container.LogOptions) (all, errs string, last time.Time) {
	t.Helper()
	var both, stderr strings.Builder
	err := s.Runtime.Logs(t.Context(), id, o, func(p container.Piece) error {
		if p.At.IsZero() || p.At.Before(last) || !p.At.Equal(p.At.Truncate(time.Second)) {
			t.Errorf("%q was written at %v, after %v", p.Text, p.At, last)
		}
		both.Write(p.Text)
		if last = p.At; p.Stderr {
			stderr.Write(p.Text)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return both.String(), stderr.String(), last
}

func testLogs(t *testing.T, s Subject) {
	spec := s.spec(t, "output", s.Exit("3"))
	spec.Restart = container.RestartAlways
	id := s.run(t, spec)
	s.await(t, spec.Ref, func(c container.Container) bool { return c.Ended() })
	last := time.Time{}
	for lines, first := range map[int]string{3: "line 18\n", 100: "line 0\n", -1: "line 0\n"} {
		all, errs, at := s.logs(t, id, container.LogOptions{Tail: lines})
		if !strings.HasPrefix(all, first) || !strings.Contains(all, "line 19\n") || errs != "ends with 3\n" {
			t.Errorf("the last %d lines are %q, with the errors %q", lines, all, errs)
		}
		last = at
	}
	for _, o := range []container.LogOptions{{Tail: 0}, {Tail: -1, Since: last.Add(time.Second)}} {
		if all, _, _ := s.logs(t, id, o); all != "" {
			t.Errorf("%+v: got %q", o, all)
		}
	}
	if all, _, _ := s.logs(t, id, container.LogOptions{Tail: -1, Since: last.Add(-1)}); !strings.HasSuffix(all, "ends with 3\n") {
		t.Errorf("since the last second: %q", all)
	}
	if all, _, _ := s.logs(t, id, container.LogOptions{Tail: -1, Follow: true}); !strings.HasSuffix(all, "ends with 3\n") {
		t.Errorf("following what ended: %q", all)
	}
	enough := errors.New("enough")
	if err := s.Runtime.Logs(t.Context(), id, container.LogOptions{Tail: -1}, func(container.Piece) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("the sink's error became %v", err)
	}
	got, err := container.LastOutput(t.Context(), s.Runtime, id, 3, 12)
	if err != nil || len(got) != 12 || !bytes.HasSuffix(got, []byte("ends with 3\n")) {
		t.Errorf("the last bytes are %q: %v", got, err)
	}
	if c := s.one(t, spec.Ref); !c.Ended() || c.PolicyRestarts != 0 {
		t.Errorf("the runtime itself restarted it: %+v", c)
	}
	gone := s.Runtime.Logs(t.Context(), strings.Repeat("0", 64), container.LogOptions{Tail: 1}, func(container.Piece) error { return nil })
	if !errors.Is(gone, container.ErrNotFound) {
		t.Errorf("the output of a container that is gone: %v", gone)
	}
}

// testFollow: what is written shows soon, and the output ends with the container, or with
// whoever reads it.
func testFollow(t *testing.T, s Subject) {
	spec := s.spec(t, "follow", s.Talk)
	id := s.run(t, spec)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error, 1)
	lines := make(chan string, 1000) // more than are written while the test takes
	go func() {
		ended <- s.Runtime.Logs(ctx, id, container.LogOptions{Tail: 1, Follow: true}, func(p container.Piece) error {
			lines <- string(p.Text)
			return nil
		})
	}()
	for range 5 {
		select {
		case line := <-lines:
			if !strings.HasPrefix(line, "line ") {
				t.Errorf("got %q", line)
			}
		case err := <-ended:
			t.Fatalf("it ended: %v", err)
		}
	}
	if err := s.Runtime.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the container was stopped: %v", err)
	}
	s.clean(t, spec.Ref)

	s.run(t, s.spec(t, "leave", s.Sleep)) // says nothing
	c := s.one(t, wire.DeploymentRef{Namespace: "conformance", Name: "leave"})
	go func() {
		ended <- s.Runtime.Logs(ctx, c.ID, container.LogOptions{Tail: -1, Follow: true}, func(container.Piece) error { return nil })
	}()
	select {
	case err := <-ended:
		t.Errorf("a container that runs ended: %v", err)
	case <-time.After(5 * talkPause):
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("whoever read it left: %v", err)
	}
}
