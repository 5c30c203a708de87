package container

// Options are what a container may have besides, in the runtime's words. What is zero is as
// the runtime has it by default.
type Options struct {
	// WorkingDir is made if it is not there.
	WorkingDir, Hostname string
	// ShmSize bounds /dev/shm in bytes.
	ShmSize int64
	// Init: an init process comes first.
	Init bool
	// LogSize is when the log begins anew, in bytes.
	LogSize int64
	// Tmpfs are directories in memory.
	Tmpfs []Tmpfs
	// VolumeSizes bound what named volumes may hold, by the volume's name, in bytes.
	VolumeSizes map[string]int64
	// Extra are further labels, Annotations are told to what runs the container.
	Extra, Annotations map[string]string
	Rights             Rights
	Bounds             Bounds
	// CDI are names of the Container Device Interface.
	CDI []string
}

// Tmpfs is a directory in memory.
type Tmpfs struct {
	Path string
	// Size in bytes; 0 for the kernel's choice.
	Size     int64
	ReadOnly bool
}

// Rights are what the processes of a container may do.
type Rights struct {
	// User is a number, and perhaps a group after a colon; empty for the image's own.
	User string
	// Groups are further groups.
	Groups []uint32
	// KeepGroups: it has the groups of the account that runs the containers, of which its own
	// processes see nothing.
	KeepGroups bool
	// Account are the user and group of the container that are the account; nil for 0.
	Account *IDPair
	// ReadOnlyRoot: it may write to its volumes alone.
	ReadOnlyRoot bool
	// NoNewPrivileges: no program gets more rights than the one that started it.
	NoNewPrivileges bool
	// CapAdd and CapDrop are names without CAP_.
	CapAdd, CapDrop []string
	// Unconfined: no filter of system calls.
	Unconfined bool
	// SELinux are parts of its label, such as "type:spc_t".
	SELinux          []string
	Sysctls          map[string]string
	HostPID, HostIPC bool
}

// IDPair are a user and a group.
type IDPair struct{ UID, GID uint32 }

// Bounds are what a container may use, besides memory.
type Bounds struct {
	// Swap in bytes, beyond the limit of memory.
	Swap int64
	// Reserved is the memory that is not taken away from it for others, in bytes.
	Reserved int64
	// CPU in thousandths of a processor, PIDs in processes and threads.
	CPU, PIDs int64
	// IOWeight is its share of the disks, 10 to 1000.
	IOWeight uint16
	// OOMScoreAdj is nil for the runtime's default.
	OOMScoreAdj *int
	Ulimits     []Ulimit
}

// Ulimit bounds a resource of each process; -1 is none.
type Ulimit struct {
	// Name is that of the resource in small letters, such as nofile.
	Name       string
	Soft, Hard int64
}
