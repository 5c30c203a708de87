package container

import (
	"strings"
	"syscall"

	"fleet.nationtech.io/fleet/pkg/wire"
)

// FileSet is a directory of files that the agent writes and a container may only read. It
// lies in a volume of its own, which lives as long as the containers that use it.
type FileSet struct {
	// Volume is the full name of the volume, see FileVolume.
	Volume string
	// Path is where the container sees the directory.
	Path string
	// Files are in order of their paths.
	Files []File
	// Mark names the contents in hex. It says nothing of them.
	Mark string
	// Live: another content is put into the volume while containers use it. They get
	// Signal then, unless that is 0.
	Live   bool
	Signal syscall.Signal
}

// File is one of a FileSet.
type File struct {
	// Path is relative to the directory, and may have directories.
	Path    string
	Content []byte
	Permissions
}

// Permissions are those of a file, as the container sees them.
type Permissions struct {
	// Mode are permissions, such as 0o444.
	Mode     uint32
	UID, GID int
}

// fileVolume begins the last part of the name of a FileSet's volume. No volume of a score
// has a dot in its name.
const fileVolume = "files."

// FileVolume is the name of the volume for the files that containers of a hash see at a path.
func FileVolume(ref wire.DeploymentRef, hash, path string) string {
	const digits = 16
	return ObjectName(ref, fileVolume+wire.Sum([]byte(hash + path)).String()[:digits])
}

// IsFileVolume reports whether a volume holds files that the agent wrote.
func IsFileVolume(name string) bool {
	return strings.HasPrefix(name[strings.LastIndexByte(name, '_')+1:], fileVolume)
}
