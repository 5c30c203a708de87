package score_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"fleet.nationtech.io/fleet/pkg/score"
)

func TestSignalsAreThoseOfLinux(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"SIGHUP", "SIGINT", "SIGQUIT", "SIGABRT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGTERM", "SIGWINCH", "SIGPWR",
	} {
		s := score.Service{StopSignal: name}
		if got := unix.SignalName(s.Signal()); got != name {
			t.Errorf("%s has the number of %q", name, got)
		}
	}
}
