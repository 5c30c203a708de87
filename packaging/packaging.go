// Package packaging holds the files that are installed beside the programs:
// the units, and the script that makes the accounts of a device. Packages are
// built from these files; pkg/hostinstall has them inside. It imports the
// standard library only.
package packaging

import "embed"

// Files are the files of this directory.
//
//go:embed libexec systemd
var Files embed.FS
