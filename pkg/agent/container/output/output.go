// Package output reads what services write, whatever becomes of their containers. It is
// for the commands of people on the device and needs no agent: labels say which container
// is of which service.
package output

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"fleet.nationtech.io/fleet/pkg/agent/container"
	"fleet.nationtech.io/fleet/pkg/agent/services"
	"fleet.nationtech.io/fleet/pkg/wire"
)

// ErrNoContainer: a service has no container at present.
var ErrNoContainer = errors.New("has no container at present: fleet-agent status says why")

// Source is where outputs come from.
type Source struct {
	Runtime container.Runtime
	// Notice is told in a line what becomes of the container that is followed.
	Notice func(line string)
}

// Find returns the service that a text means among those that have a container, see
// services.Find.
func (s Source) Find(ctx context.Context, text string) (services.Name, error) {
	list, err := s.Runtime.List(ctx, wire.DeploymentRef{})
	if err != nil {
		return services.Name{}, err
	}
	names := make([]services.Name, 0, len(list))
	for _, c := range list {
		names = append(names, services.Name{DeploymentRef: c.Ref, Service: c.Service})
	}
	return services.Find(text, names)
}

// Container returns the container of a service: the one that runs, or else the last that
// did. It returns ErrNoContainer.
func (s Source) Container(ctx context.Context, name services.Name) (container.Container, error) {
	list, err := s.Runtime.List(ctx, name.DeploymentRef)
	if err != nil {
		return container.Container{}, err
	}
	list = slices.DeleteFunc(list, func(c container.Container) bool { return c.Service != name.Service })
	if len(list) == 0 {
		return container.Container{}, fmt.Errorf("service %s %w", name, ErrNoContainer)
	}
	return slices.MaxFunc(list, newer), nil
}

// newer orders containers of a service: the one that runs is the last.
func newer(a, b container.Container) int {
	if up := a.State == container.StateRunning; up != (b.State == container.StateRunning) {
		if up {
			return 1
		}
		return -1
	}
	return a.Started.Compare(b.Started)
}

// Read hands what there is of a service's output to sink. It returns ErrNoContainer, errors
// of the Runtime and those of sink.
func (s Source) Read(ctx context.Context, name services.Name, o container.LogOptions, sink func(container.Piece) error) error {
	c, err := s.Container(ctx, name)
	if err != nil {
		return err
	}
	o.Follow = false
	return s.Runtime.Logs(ctx, c.ID, o, sink)
}

const (
	// pause is the time between two looks at a container that does not run, and look
	// that between two looks at one whose output is followed: podman may miss its end.
	pause, look = time.Second, 3 * time.Second
	// drain is how long the rest of the output of a run that is over may take.
	drain = 2 * time.Second
)

// Follow is Read that goes on with the next run of the service, in whichever container,
// until ctx ends, and then returns its error. It returns errors of the Runtime before the
// output began, and those of sink at any time.
func (s Source) Follow(ctx context.Context, name services.Name, o container.LogOptions, sink func(container.Piece) error) error {
	f := follower{Source: s, name: name, options: o, sink: sink}
	f.options.Follow = true
	for {
		err := f.step(ctx)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// follower is what is known while an output is followed.
type follower struct {
	Source

	name    services.Name
	options container.LogOptions
	sink    func(container.Piece) error
	// read is the container whose last run was read; its ID is empty at first.
	read container.Container
	// at is the second in which the last piece was written that was read of the container,
	// and inIt how many were of those that were written in it.
	at   time.Time
	inIt int
	// said is the last line that Notice was told.
	said string
}

// step reads a run, if there is one that was not read.
func (f *follower) step(ctx context.Context) error {
	c, err := f.Container(ctx, f.name)
	switch {
	case err != nil && (ctx.Err() != nil || f.read.ID == ""):
		return err
	case err != nil:
		f.notice(err.Error())
		return nil
	case sameRun(&c, &f.read) && c.State != container.StateRunning:
		f.notice(f.ended(&c))
		return nil
	case c.ID != f.read.ID && f.read.ID != "":
		f.options.Since, f.at, f.inIt = time.Time{}, time.Time{}, 0 // all of it is news
	}
	f.said = ""
	var sunk error
	err = f.run(ctx, &c, f.unread(func(p container.Piece) error {
		sunk = f.sink(p)
		return sunk
	}))
	first := f.read.ID == ""
	f.read, f.options.Tail = c, -1
	switch {
	case sunk != nil:
		return sunk
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && first:
		return err
	case err != nil && !errors.Is(err, container.ErrNotFound):
		f.notice(err.Error())
	}
	return nil
}

// unread returns a sink that passes on to another what was not read before. The runtime
// tells the second of each piece only, so those of the last second come again.
func (f *follower) unread(sink func(container.Piece) error) func(container.Piece) error {
	again, at := f.inIt, f.at
	switch {
	case at.After(time.Now()): // the clock was set back
		f.options.Since, again = time.Now(), 0
	case !at.IsZero():
		f.options.Since = at.Add(-1)
	}
	return func(p container.Piece) error {
		if again > 0 && p.At.Equal(at) {
			again--
			return nil
		}
		if !p.At.Equal(f.at) {
			f.at, f.inIt = p.At, 0
		}
		f.inIt++
		return sink(p)
	}
}

// run reads the output of a run until it is over, or until ctx ends. Podman may not notice
// the end, or go on with the next run.
func (f *follower) run(ctx context.Context, c *container.Container, sink func(container.Piece) error) error {
	reading, over := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer over()
		f.awaitEnd(reading, c)
	}()
	err := f.Runtime.Logs(reading, c.ID, f.options, sink)
	ended := reading.Err() != nil && ctx.Err() == nil
	over()
	<-done
	if ended {
		return nil
	}
	return err
}

// awaitEnd returns some time after a run is over, or when ctx ends.
func (f *follower) awaitEnd(ctx context.Context, c *container.Container) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := f.Container(ctx, f.name)
		if err == nil && sameRun(&now, c) && now.State == container.StateRunning {
			continue
		}
		if err != nil && !errors.Is(err, ErrNoContainer) {
			continue // nothing is known
		}
		select {
		case <-ctx.Done():
		case <-time.After(drain):
		}
		return
	}
}

func sameRun(a, b *container.Container) bool { return a.ID == b.ID && a.Started.Equal(b.Started) }

func (f *follower) ended(c *container.Container) string {
	if c.Ended() {
		return fmt.Sprintf("service %s ended with exit code %d: waiting for it to run again", f.name, c.ExitCode)
	}
	return fmt.Sprintf("service %s does not run (%.20s): waiting for it", f.name, c.State)
}

// notice says something once.
func (f *follower) notice(line string) {
	if line != f.said {
		f.said = line
		f.Notice(line)
	}
}
