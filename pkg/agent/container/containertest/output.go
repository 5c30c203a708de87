package containertest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
)

const (
	// TalkCommand is the first word of a command that writes a line every talkPause, and
	// runs until it is stopped.
	TalkCommand = "talk"
	talkPause   = 20 * time.Millisecond
	// farewells is how many lines Farewell writes to one of the streams.
	farewells = 20
)

// Farewell is what a command that ends with a code writes before.
func Farewell(out, errs io.Writer, code string) {
	for n := range farewells {
		fmt.Fprintln(out, "line", n)
	}
	fmt.Fprintln(errs, "ends with", code)
}

// Talk is what TalkCommand does.
func Talk(out io.Writer) {
	for n := 0; ; n++ {
		fmt.Fprintln(out, "line", n)
		time.Sleep(talkPause)
	}
}

// said is a line of a container's output.
type said struct {
	at     time.Time
	stderr bool
	line   string
}

func says(text string, stderr bool) (all []said) {
	for line := range strings.Lines(text) {
		all = append(all, said{time.Now(), stderr, line})
	}
	return all
}

func farewell(code string) []said {
	var out, errs strings.Builder
	Farewell(&out, &errs, code)
	return append(says(out.String(), false), says(errs.String(), true)...)
}

// Logs implements container.Runtime.
func (f *Fake) Logs(ctx context.Context, id string, o container.LogOptions, sink func(container.Piece) error) error {
	told, running, err := f.said(id, 0)
	if err != nil {
		return err
	}
	all := len(told)
	if o.Tail >= 0 {
		told = told[max(0, all-o.Tail):]
	}
	for {
		for _, s := range told {
			if s.at.After(o.Since) || o.Since.IsZero() {
				if err := sink(container.Piece{At: s.at.Truncate(time.Second), Stderr: s.stderr, Text: []byte(s.line)}); err != nil {
					return err
				}
			}
		}
		if !o.Follow || !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(talkPause):
		}
		if told, running, err = f.said(id, all); err != nil {
			return nil //nolint:nilerr // it was removed, so that it ended
		}
		all += len(told)
	}
}

// said returns what a container said but for the first lines, and whether it runs.
func (f *Fake) said(id string, but int) (told []said, running bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	switch {
	case f.down != nil:
		return nil, false, f.down
	case c == nil:
		return nil, false, container.ErrNotFound
	}
	if running = c.State == container.StateRunning; running && len(c.spec.Command) > 0 && c.spec.Command[0] == TalkCommand {
		c.talk()
	}
	all := slices.Concat(c.said, f.outputs[c.Name])
	return all[min(but, len(all)):], running, nil
}

// talk writes what is due.
func (e *entry) talk() {
	begun := slices.IndexFunc(e.said, func(s said) bool { return s.at.After(e.Started) })
	if begun < 0 {
		begun = len(e.said)
	}
	for n := len(e.said) - begun; ; n++ {
		at := e.Started.Add(time.Duration(n+1) * talkPause)
		if at.After(time.Now()) {
			return
		}
		e.said = append(e.said, said{at, false, fmt.Sprintln("line", n)})
	}
}
