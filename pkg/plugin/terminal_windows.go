package plugin

import (
	"os"

	"golang.org/x/sys/windows"
)

// obeys makes a console obey what moves its cursor, as terminals elsewhere do, and
// reports whether it does.
func obeys(f *os.File) bool {
	console := windows.Handle(f.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(console, &mode); err != nil {
		return false
	}
	return windows.SetConsoleMode(console, mode|windows.ENABLE_PROCESSED_OUTPUT|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
