package crashes

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/agent/services"
)

// ErrNone: no crash of a service is kept.
var ErrNone = errors.New("no crash is kept")

// Of returns the crashes of the service that a text means, see services.Find, newest first.
// It returns ErrNone or services.ErrAmbiguous.
func Of(all []Crash, text string) ([]Crash, error) {
	var names []services.Name
	for _, c := range all {
		names = append(names, c.Name)
	}
	name, err := services.Find(text, names)
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("%w: no service crashed on this device that is still there", ErrNone)
	case errors.Is(err, services.ErrUnknown):
		return nil, fmt.Errorf("%w of %.200q; of others there is one: %s", ErrNone, text, services.List(distinct(names)))
	case err != nil:
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(c Crash) bool { return c.Name != name }), nil
}

func distinct(names []services.Name) []services.Name {
	names = slices.Clone(names)
	slices.SortFunc(names, services.Name.Compare)
	return slices.Compact(names)
}

const (
	// signalled is the exit code of a container that a signal ended, less the signal.
	signalled, lastSignal = 128, 64
)

// How is in words how the service ended.
func (c Crash) How() string {
	if c.Cause != "" {
		return c.Cause
	}
	text := fmt.Sprintf("exited with code %d", c.ExitCode)
	if name := unix.SignalName(syscall.Signal(c.ExitCode - signalled)); c.ExitCode > signalled && c.ExitCode <= signalled+lastSignal && name != "" {
		text += ", as " + name + " makes it"
	}
	if c.OutOfMemory {
		text += ": there was no memory left for it, by its limit or on the device"
	}
	return text
}
