// Package version says which build this is. Both binaries print it, and the
// agent reports it in its inventory. It imports the standard library only, so
// that any package may import it.
package version

import (
	"fmt"
	"runtime"
)

// Version is the release, as `git describe` names it. The Makefile sets it
// with -ldflags; a binary that was built another way says "dev".
var Version = "dev"

// String returns the version with the Go release and the platform, in one line.
func String() string {
	return fmt.Sprintf("%s (%s %s/%s)", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
