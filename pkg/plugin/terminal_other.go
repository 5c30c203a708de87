//go:build !windows

package plugin

import "os"

// obeys reports whether a terminal obeys what moves its cursor.
func obeys(*os.File) bool { return os.Getenv("TERM") != "dumb" }
