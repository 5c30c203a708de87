package hostinstall

import "errors"

// Exit statuses of the commands, which install.sh hands on. Smaller ones are
// its own, and 1 is any other error.
const (
	exitKept     = 10
	exitNotReady = 11
	exitRefused  = 12
)

// ExitCode is the exit status for an error of a command; 0 for none.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNotReady):
		return exitNotReady
	case errors.Is(err, ErrKept):
		return exitKept
	case errors.Is(err, ErrRefused):
		return exitRefused
	}
	return 1
}
