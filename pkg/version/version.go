// Package version says which build this is. Both binaries print it, and the
// agent reports it in its inventory. It imports the standard library only, so
// that any package may import it.
package version

import (
	"fmt"
	"runtime"
	"time"
)

// Version is the release, as tools/version.sh names it. The Makefile sets it
// with -ldflags; a binary that was built another way says "dev".
var Version = "dev"

// firstRelease is a time that every build is later than.
const firstRelease = "2026-11-01T00:00:00Z"

// Built is the time of the newest change that the build has, in RFC 3339. The
// Makefile sets it with -ldflags.
var Built = firstRelease

// BuiltAt is Built. A clock that says less is wrong.
func BuiltAt() time.Time {
	for _, s := range []string{Built, firstRelease} {
		if t, err := time.Parse(time.RFC3339, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{} // not reached: the constant has the form
}

// String returns the version with the Go release and the platform, in one line.
func String() string {
	return fmt.Sprintf("%s (%s %s/%s)", Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
