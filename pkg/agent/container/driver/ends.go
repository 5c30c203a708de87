package driver

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/container/plan"
	"fleet.nationtech.io/fleet/pkg/agent/container/runs"
	"fleet.nationtech.io/fleet/pkg/agent/crashes"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/printable"
)

const (
	// outputTimeout bounds how long outputs are waited for, which are worth no delay.
	outputTimeout = 5 * time.Second
	// crashLines is how many lines of output are read of a container that ended, at most
	// crashes.MaxOutput bytes of them. lastLines and, in bytes, maxTail are what a report
	// has.
	crashLines, lastLines, maxTail = 1000, 5, 256
)

// noteEnd notes what a container wrote last that ended, and keeps what is known of an end
// that nobody asked for.
func (d *Driver) noteEnd(ctx context.Context, c *container.Container, end runs.End) {
	output := d.lastOutput(ctx, c)
	if len(output) > 0 {
		d.runs.Tell(c, tail(container.LastLines(output, lastLines)))
	}
	if end.Unasked && c.ExitCode != 0 {
		d.keeper.suspect()
	}
	if end.Unasked && (c.ExitCode != 0 || c.OutOfMemory || c.Last.Unwell != "" || d.wanted.goesOn(c)) {
		d.crash(c, crashes.Crash{
			ExitCode: c.ExitCode, OutOfMemory: c.OutOfMemory, Cause: c.Last.Unwell, Ended: c.Finished, Ran: end.Ran, Output: output,
		})
	}
}

func (d *Driver) lastOutput(ctx context.Context, c *container.Container) []byte {
	output, err := container.LastOutput(ctx, d.runtime, c.ID, crashLines, crashes.MaxOutput)
	if err != nil {
		d.log.Debug("the last output of a container is not known whole", "container", c.Name, "error", err)
	}
	return output
}

// noteStuck keeps what is known of a container that is about to be cleared.
func (d *Driver) noteStuck(ctx context.Context, c *container.Container) {
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	d.crash(c, crashes.Crash{Cause: plan.Stuck(c), Output: d.lastOutput(ctx, c)})
}

// crash completes a crash by what is known of its container, and keeps it.
func (d *Driver) crash(c *container.Container, crash crashes.Crash) {
	if d.crashes == nil {
		return
	}
	now := d.runs.Now()
	crash.Name = services.Name{DeploymentRef: c.Ref, Service: c.Service}
	crash.Container, crash.Image, crash.Restarts = c.Name, c.Image, c.Restarts
	crash.Seen, crash.Boot, crash.Uptime = time.Now().UTC(), now.Boot, now.Uptime
	d.crashes.Keep(crash)
}

// tail is the end of an output in one line.
func tail(output []byte) string {
	text := printable.Squeeze(strings.ToValidUTF8(string(output), "\uFFFD"))
	if len(text) <= maxTail {
		return text
	}
	const mark = "…"
	text = text[len(text)-maxTail+len(mark):]
	for text != "" && !utf8.RuneStart(text[0]) {
		text = text[1:]
	}
	return mark + text
}
